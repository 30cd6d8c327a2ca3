"""How engines are started for a port: command lines as lists of words, and the environment they need."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.core.serving import TRANSFORMERS, VLLM, Option
from app.services.serving.serving_facts import TORCH_DTYPES, Serving

# The registry as the reader of the document knows it; what runs the commands puts its own words there.
URL, TOKEN = "$PORTLLM_URL", "$PORTLLM_TOKEN"
HUB = {"HF_ENDPOINT": URL, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}


@dataclass(frozen=True)
class Launch:
    """Commands to run one after another in an environment; the last one is the engine."""

    environment: Mapping[str, str]
    commands: tuple[tuple[str, ...], ...]


def launches(serving: Serving, option: Option) -> tuple[Launch, ...]:
    """The ways to start an engine for a port; none where it cannot serve it."""
    if not option.servable or serving.addresses is None:
        return ()
    if option.mode == "adapter":
        return _static(serving), _by_resolver(serving)
    if option.engine == VLLM and serving.addresses.merged:
        return (_merged_by_name(serving),)
    return (_merged_from_directory(serving, option.engine),)


def base_revision(serving: Serving) -> tuple[str, str]:
    """Repository and revision of the base."""
    return f"base/{serving.port.release.family.name}", serving.port.release.name


def adapter_revision(serving: Serving) -> tuple[str, str]:
    """Repository and revision of the adapter, rewritten for its base."""
    return serving.port.version.patch.full_name, f"{serving.port.version.number}@{serving.port.release.name}"


def merged_revision(serving: Serving) -> tuple[str, str]:
    """Repository and revision of the merged model."""
    return f"{serving.port.version.patch.full_name}.merged", f"{serving.port.release.name}@{serving.port.version.number}"


def served_name(serving: Serving) -> str:
    """A name that is never another version's: OWNER/PATCH@N, which the resolver for vLLM understands too."""
    return f"{serving.port.version.patch.full_name}@{serving.port.version.number}"


def _directory(serving: Serving) -> str:
    version = serving.port.version
    return f"./{version.owner}-{version.patch.name}-{version.number}-on-{serving.port.release.name}"


def _shared_base(serving: Serving) -> tuple[str, ...]:
    repository, revision = base_revision(serving)
    dtype = TORCH_DTYPES[serving.facts.adapter_dtype]
    return (
        "vllm", "serve", repository, "--revision", revision, "--dtype", dtype, "--enable-lora",
        "--max-lora-rank", str(serving.facts.max_lora_rank),
    )  # fmt: skip


def _static(serving: Serving) -> Launch:
    """`--lora-modules` takes no revision, and would load what is `main` at the time: so the adapter is fetched first."""
    repository, revision = adapter_revision(serving)
    directory = f"{_directory(serving)}-adapter"
    fetch = ("hf", "download", repository, "--revision", revision, "--local-dir", directory)
    return Launch(HUB, (fetch, (*_shared_base(serving), "--lora-modules", f"{served_name(serving)}={directory}")))


def _by_resolver(serving: Serving) -> Launch:
    """The plug-in fetches what is asked for by name (app.plugins.vllm_resolver)."""
    repository, revision = base_revision(serving)
    own = {
        "PORTLLM_URL": URL, "PORTLLM_TOKEN": TOKEN, "PORTLLM_VLLM_BASE": f"{repository}@{revision}",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_PLUGINS": "portllm_lora_resolver",
    }  # fmt: skip
    return Launch(HUB | own, (_shared_base(serving),))


def _merged_by_name(serving: Serving) -> Launch:
    repository, revision = merged_revision(serving)
    command = ("vllm", "serve", repository, "--revision", revision, "--served-model-name", served_name(serving))
    return Launch(HUB, ((*command, "--dtype", _merged_dtype(serving)),))


def _merged_from_directory(serving: Serving, engine: str) -> Launch:
    directory = _directory(serving)
    fetch = ("portllm", "pull", serving.port.id, directory)
    serve = ("transformers", "serve", directory) if engine == TRANSFORMERS else ("vllm", "serve", directory)
    named = ("--served-model-name", served_name(serving)) if engine == VLLM else ()
    environment = {"PORTLLM_URL": URL, "PORTLLM_TOKEN": TOKEN}
    return Launch(environment, (fetch, (*serve, *named, "--dtype", _merged_dtype(serving))))


def _merged_dtype(serving: Serving) -> str:
    """That of the tensors that the patch touches, where they agree; engines would otherwise choose one of their own."""
    dtypes = serving.facts.output_dtypes
    return TORCH_DTYPES.get(dtypes[0], "auto") if len(dtypes) == 1 else "auto"
