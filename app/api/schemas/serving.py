"""Bodies of serving.json: what engines can serve, and how."""

from typing import Annotated, Any

from pydantic import Field

from app.api.schemas.base import Bytes, Out, Sha256
from app.api.schemas.ports import FindingOut
from app.core.serving import MAX_LORA_RANKS, VERSIONS, Option
from app.services.hubview.snapshots import Snapshot
from app.services.serving import engine_commands
from app.services.serving.serving_facts import ADAPTER_FILES, Serving

Commit = Annotated[
    str, Field(description="Names what is there now for good.", examples=["2fd4e1c67a2d28fced849ee1bb76e7391b93eb12"])
]
Repository = Annotated[str, Field(description="In the Hub protocol.", examples=["acme/tone"])]


class BaseAddressOut(Out):
    """The release, as a base model."""

    repository: Annotated[str, Field(examples=["base/llama-3-8b"])]
    revision: Annotated[str, Field(examples=["v2"])]
    commit: Commit
    digest: Annotated[Sha256, Field(description="Of the release's manifest.")]
    model_type: Annotated[str, Field(examples=["llama"])]
    architectures: Annotated[list[str], Field(examples=[["LlamaForCausalLM"]])]


class AdapterFileOut(Out):
    """A file that an engine reads of an adapter."""

    path: Annotated[str, Field(examples=["adapter_model.safetensors"])]
    size: Bytes
    sha256: Sha256


class AdapterAddressOut(Out):
    """The patch, rewritten for the release."""

    repository: Repository
    revision: Annotated[str, Field(examples=["1@v2"])]
    commit: Commit
    digest: Annotated[Sha256, Field(description="Of the version, as it was published.")]
    files: list[AdapterFileOut]


class MergedAddressOut(Out):
    """The merged model."""

    repository: Annotated[str, Field(examples=["acme/tone.merged"])]
    revision: Annotated[str, Field(examples=["v2@1"])]
    commit: Commit
    total_bytes: Bytes


class ServingFactsOut(Out):
    """What decides."""

    rank: Annotated[int, Field(description="The largest of all modules.", examples=[16])]
    max_lora_rank: Annotated[
        int | None, Field(description="The least value for vLLM's --max-lora-rank that is enough.", examples=[16])
    ]
    max_lora_ranks: Annotated[list[int], Field(description="All values that vLLM takes.", examples=[list(MAX_LORA_RANKS)])]
    use_rslora: Annotated[bool, Field(examples=[False])]
    rank_pattern: Annotated[bool, Field(description="Whether modules differ in rank.", examples=[False])]
    alpha_pattern: Annotated[bool, Field(description="Whether modules differ in alpha.", examples=[False])]
    target_modules: Annotated[
        list[str], Field(description="Last parts of the modules in the file.", examples=[["q_proj", "v_proj"]])
    ]
    factor_dtypes: Annotated[list[str], Field(examples=[["F32"]])]
    output_dtypes: Annotated[list[str], Field(description="Of the tensors that the patch touches.", examples=[["BF16"]])]
    bias: Annotated[str, Field(examples=["none"])]
    modules_to_save: Annotated[list[str], Field(examples=[[]])]
    own_tokenizer: Annotated[list[str], Field(description="Tokenizer files unlike the release's.", examples=[[]])]

    @classmethod
    def of(cls, serving: Serving) -> "ServingFactsOut":
        facts, config = serving.facts, serving.facts.config
        return cls(
            rank=facts.rank, max_lora_rank=facts.max_lora_rank, max_lora_ranks=list(MAX_LORA_RANKS),
            use_rslora=bool(config.get("use_rslora")), rank_pattern=bool(config.get("rank_pattern")),
            alpha_pattern=bool(config.get("alpha_pattern")), target_modules=sorted(facts.modules),
            factor_dtypes=list(facts.factor_dtypes), output_dtypes=list(facts.output_dtypes),
            bias=str(config.get("bias") or "none"), modules_to_save=list(config.get("modules_to_save") or ()),
            own_tokenizer=list(facts.own_tokenizer),
        )  # fmt: skip


class LaunchOut(Out):
    """One way to start an engine: commands one after another, in an environment. $NAMES are the reader's own."""

    environment: Annotated[dict[str, str], Field(examples=[{"HF_ENDPOINT": "$PORTLLM_URL"}])]
    commands: Annotated[list[list[str]], Field(examples=[[["vllm", "serve", "acme/tone.merged", "--revision", "v2@1"]]])]


class OptionOut(Out):
    """An engine and a mode."""

    name: Annotated[str, Field(examples=["vllm-adapter"])]
    engine: Annotated[str, Field(examples=["vllm"])]
    engine_version: Annotated[str, Field(description="The one that was looked at.", examples=[VERSIONS["vllm"]])]
    mode: Annotated[str, Field(description="adapter (on a shared base) or merged", examples=["adapter"])]
    servable: Annotated[bool, Field(examples=[True])]
    reasons: list[FindingOut]
    launches: list[LaunchOut]

    @classmethod
    def of(cls, serving: Serving, option: Option) -> "OptionOut":
        return cls(
            name=option.name, engine=option.engine, engine_version=VERSIONS[option.engine], mode=option.mode,
            servable=option.servable, reasons=[FindingOut(**reason.to_dict()) for reason in option.reasons],
            launches=[
                LaunchOut(environment=dict(way.environment), commands=[list(command) for command in way.commands])
                for way in engine_commands.launches(serving, option)
            ],
        )  # fmt: skip


class ServingOut(Out):
    """A port as engines see it."""

    port: Annotated[str, Field(examples=["prt_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    state: Annotated[str, Field(description="ready, held, refused or retired", examples=["ready"])]
    patch: Annotated[str, Field(examples=["acme/tone"])]
    version: Annotated[int | None, Field(examples=[1])]
    family: Annotated[str, Field(examples=["llama-3-8b"])]
    release: Annotated[str, Field(examples=["v2"])]
    fingerprint: Annotated[Sha256, Field(description="Names the merged bytes.")]
    served_name: Annotated[str, Field(description="A model name for clients, never another version's.", examples=["acme/tone@1"])]
    servable: Annotated[bool, Field(examples=[True])]
    recommended: Annotated[str | None, Field(description="The first option that can serve it.", examples=["vllm-adapter"])]
    options: list[OptionOut]
    facts: Annotated[ServingFactsOut | None, Field(description="Null where the port is not ready; so are the addresses.")]
    base: BaseAddressOut | None
    adapter: Annotated[AdapterAddressOut | None, Field(description="Null for recipes other than plain addition; so is merged.")]
    merged: MergedAddressOut | None

    @classmethod
    def of(cls, serving: Serving) -> "ServingOut":
        port, servable = serving.port, [option.name for option in serving.options if option.servable]
        found = serving.addresses
        return cls(
            port=port.id, state=port.state, patch=port.version.patch.full_name, version=port.version.number,
            family=port.release.family.name, release=port.release.name, fingerprint=port.fingerprint,
            served_name=engine_commands.served_name(serving), servable=bool(servable),
            recommended=servable[0] if servable else None,
            options=[OptionOut.of(serving, option) for option in serving.options],
            facts=ServingFactsOut.of(serving) if found else None, base=_base(serving, found.base) if found else None,
            adapter=_adapter(serving, found.adapter) if found and found.adapter else None,
            merged=_merged(serving, found.merged) if found and found.merged else None,
        )  # fmt: skip


def _base(serving: Serving, snapshot: Snapshot) -> BaseAddressOut:
    repository, revision = engine_commands.base_revision(serving)
    return BaseAddressOut(
        repository=repository, revision=revision, commit=snapshot.commit, digest=str(serving.port.release.manifest),
        model_type=serving.facts.model_type, architectures=list(serving.architectures),
    )  # fmt: skip


def _adapter(serving: Serving, snapshot: Snapshot) -> AdapterAddressOut:
    repository, revision = engine_commands.adapter_revision(serving)
    entries: list[Any] = [snapshot.files[path] for path in ADAPTER_FILES]
    return AdapterAddressOut(
        repository=repository, revision=revision, commit=snapshot.commit, digest=serving.port.version.digest,
        files=[AdapterFileOut(path=entry.path, size=entry.size, sha256=entry.sha256) for entry in entries],
    )  # fmt: skip


def _merged(serving: Serving, snapshot: Snapshot) -> MergedAddressOut:
    repository, revision = engine_commands.merged_revision(serving)
    total = sum(entry.size for entry in snapshot.files.values())
    return MergedAddressOut(repository=repository, revision=revision, commit=snapshot.commit, total_bytes=total)
