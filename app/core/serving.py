"""Which engines can serve a port, in which mode, and why not.

Engines do not validate: vLLM answers 200 and serves the plain base, or NaN to other tenants too, where an adapter is not one
that it understands. So it is decided here, from facts and tables. The tables are of vLLM 0.33.0: `vllm/config/lora.py` (ranks),
`vllm/lora/peft_helper.py` (settings), `vllm/lora/ops` (dtypes), `vllm/lora/lora_model.py` (modules), and `registry.py` and
`embedding_modules` in `vllm/model_executor/models` (architectures). `transformers serve`: transformers 5.23.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from app.core.findings import Finding
from app.core.lora.config import INIT, asks_for_more
from app.core.recipe import PLAIN, Recipe

Mode = Literal["adapter", "merged"]

VLLM, TRANSFORMERS = "vllm", "transformers-serve"
VERSIONS = {VLLM: "0.33.0", TRANSFORMERS: "5.23.0"}
# --max-lora-rank takes one of these and nothing between.
MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# Model types with an implementation of vLLM's own that takes adapters.
NATIVE = frozenset({
    "cohere", "cohere2", "exaone4", "gemma", "gemma2", "gemma3_text", "glm4", "granite", "llama", "mistral", "nemotron", "phi3",
    "qwen2", "qwen3",
})  # fmt: skip
# Those that it runs by way of transformers' implementation, which takes adapters too.
BY_TRANSFORMERS = frozenset({
    "arcee", "glm", "hunyuan_v1_dense", "olmo", "olmo2", "olmo3", "phi", "seed_oss", "smollm3", "starcoder2",
})  # fmt: skip
# Those that it serves, but not with adapters.
WITHOUT_ADAPTERS = frozenset({"stablelm"})
# Only these take an adapter on the output layer (lm_head among their embedding_modules; phi3 has it of llama).
WITH_LM_HEAD = frozenset({"exaone4", "granite", "llama", "nemotron", "phi3", "qwen3"})
LM_HEAD = "lm_head"
EMBEDDINGS = frozenset({"embed_tokens", "wte", "word_embeddings"})
# The types of adapters that vLLM loads.
TAKEN_BY_VLLM = frozenset({"LORA"})
# Settings that vLLM refuses itself; all others that change the weights it does not look at.
REFUSED_BY_VLLM = frozenset({
    "alora_invocation_tokens", "bias", INIT, "layer_replication", "lora_bias", "modules_to_save", "use_bdlora", "use_dora",
    "use_qalora",
})  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What decides about a port.

    Attributes:
        state: of the port.
        recipe: of the port.
        config: adapter_config.json as it was published; empty where the port is not ready.
        ranks: of the factors in the file.
        modules: last parts of the names of the modules in the file.
        factor_dtypes: as safetensors names them.
        model_type: of the base.
        output_dtypes: of the float tensors of the merged model, as safetensors names them.
        own_tokenizer: tokenizer files of the patch that differ from the release's.
        yanked: which of "version" and "release" were yanked.
        low_fidelity: the finding that much of the patch is lost in rounding, if there is one.
    """

    state: str
    recipe: Recipe
    config: Mapping[str, Any]
    ranks: frozenset[int]
    modules: frozenset[str]
    factor_dtypes: tuple[str, ...]
    model_type: str
    output_dtypes: tuple[str, ...]
    own_tokenizer: tuple[str, ...] = ()
    yanked: tuple[str, ...] = ()
    low_fidelity: Finding | None = None

    @property
    def is_canonical(self) -> bool:
        """Whether base and adapter together are what the port is."""
        return self.recipe == PLAIN

    @property
    def rank(self) -> int:
        """The largest, by the file and by the settings: engines ask the settings for what they allocate."""
        said = [self.config.get("r"), *(self.config.get("rank_pattern") or {}).values()]
        return max([0, *self.ranks, *(value for value in said if type(value) is int)])

    @property
    def max_lora_rank(self) -> int | None:
        """The least that vLLM takes for --max-lora-rank and that is enough; None: no value is."""
        return next((limit for limit in MAX_LORA_RANKS if self.rank <= limit), None)

    @property
    def adapter_dtype(self) -> str:
        """The dtype that base and factors have beside each other, as safetensors names it."""
        return "F16" if set(self.output_dtypes) == {"F16"} else "BF16"


@dataclass(frozen=True)
class Option:
    """An engine and a mode, and the reasons; one that refuses is enough."""

    engine: str
    mode: Mode
    reasons: tuple[Finding, ...]

    @property
    def servable(self) -> bool:
        return all(reason.severity != "refuse" for reason in self.reasons)

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.mode}"


def decide(facts: Facts) -> tuple[Option, ...]:
    """Every engine and mode, the one to prefer first: an adapter shares its base with others and loses nothing in rounding."""
    closed = tuple(_closed(facts))
    return tuple(Option(engine, mode, closed or (*_yanked(facts), *judge(facts))) for engine, mode, judge in _JUDGES)


def _closed(facts: Facts) -> Iterator[Finding]:
    if facts.state != "ready":
        text = f"The port is {facts.state}; only ready ports are served. Its findings say why."
        yield Finding("serving.port_state", "refuse", text, {"state": facts.state})


def _yanked(facts: Facts) -> Iterator[Finding]:
    for what in facts.yanked:
        text = f"The {what} was yanked: what is pinned to it goes on being read, but nothing should begin to serve it."
        yield Finding("serving.yanked", "warn", text, {"what": what})


def _vllm_adapter(facts: Facts) -> Iterator[Finding]:
    if not facts.is_canonical:
        text = "Base and adapter together are plain addition in the release's own dtypes with its tokenizer; this recipe is not."
        yield Finding("serving.recipe", "refuse", text, {"recipe": facts.recipe.to_dict()})
    yield from _settings(facts.config)
    yield from _architecture(facts)
    yield from _targets(facts)
    if facts.max_lora_rank is None:
        limit = MAX_LORA_RANKS[-1]
        text = f"The patch has rank {facts.rank}; vLLM's --max-lora-rank takes {limit} at most."
        yield Finding("serving.rank", "refuse", text, {"rank": facts.rank, "limit": limit, "allowed": list(MAX_LORA_RANKS)})
    if facts.own_tokenizer:
        files = ", ".join(facts.own_tokenizer)
        text = f"The engine uses the base's tokenizer and chat template for all adapters; the patch's own is not read ({files})."
        yield Finding("serving.tokenizer", "warn", text, {"files": list(facts.own_tokenizer)})
    yield from _rounding(facts)


def _rounding(facts: Facts) -> Iterator[Finding]:
    """vLLM keeps factors in the model's dtype, and its kernels take the two halves only."""
    served = facts.adapter_dtype
    if others := sorted(set(facts.output_dtypes) - {served}):
        text = f"vLLM takes adapters beside a base of 16 bits only: it rounds the base from {_listed(others)} to {served}."
        yield Finding("serving.adapter_dtype", "warn", text, {"base": others, "served": served})
    if rounded := sorted(set(facts.factor_dtypes) - {served}):
        text = f"The engine rounds the factors from {_listed(rounded)} to {served}."
        yield Finding("serving.factors_rounded", "info", text, {"factors": rounded, "served": served})


def _vllm_merged(facts: Facts) -> Iterator[Finding]:
    if facts.model_type not in NATIVE | BY_TRANSFORMERS | WITHOUT_ADAPTERS:
        yield _unlisted(facts, "warn")
    yield from _merged(facts)


def _transformers_adapter(facts: Facts) -> Iterator[Finding]:  # noqa: ARG001  the answer is the same for all
    text = "transformers serve has no adapters: it answers 500 for a directory with one. Serve the merged model."
    yield Finding("serving.no_adapters", "refuse", text, {})


def _merged(facts: Facts) -> Iterator[Finding]:
    if facts.low_fidelity:
        yield facts.low_fidelity
    if not facts.is_canonical:
        text = "Only plain addition has a name in the Hub protocol; pull this one by the port's id, and serve the directory."
        yield Finding("serving.no_address", "info", text, {"recipe": facts.recipe.to_dict()})


def _settings(config: Mapping[str, Any]) -> Iterator[Finding]:
    if (named := config.get("peft_type")) not in TAKEN_BY_VLLM:
        text = f"adapter_config.json names the type {named!r}; vLLM takes {_listed(sorted(TAKEN_BY_VLLM))} only."
        yield Finding("serving.setting", "refuse", text, {"field": "peft_type", "value": str(named)[:200]})
        return
    for field, value in sorted(config.items()):
        if not asks_for_more(field, value):
            continue
        how = "vLLM refuses it" if field in REFUSED_BY_VLLM else "vLLM does not look at it, and would serve something else"
        text = f"adapter_config.json sets {field!r}; {how}."
        yield Finding("serving.setting", "refuse", text, {"field": field[:100], "value": str(value)[:200]})


def _architecture(facts: Facts) -> Iterator[Finding]:
    if facts.model_type in WITHOUT_ADAPTERS:
        text = f"vLLM serves {facts.model_type!r}, but takes no adapters for it."
        yield Finding("serving.architecture", "refuse", text, {"model_type": facts.model_type})
    elif facts.model_type not in NATIVE | BY_TRANSFORMERS:
        yield _unlisted(facts, "refuse")


def _unlisted(facts: Facts, severity: Literal["refuse", "warn"]) -> Finding:
    text = f"{facts.model_type!r} is not in vLLM's list of models; it may run by way of transformers, which was not looked at."
    return Finding("serving.architecture", severity, text, {"model_type": facts.model_type})


def _targets(facts: Facts) -> Iterator[Finding]:
    takes = frozenset({LM_HEAD}) if facts.model_type in WITH_LM_HEAD else frozenset[str]()
    refused = sorted(facts.modules & ((EMBEDDINGS | {LM_HEAD}) - takes))
    if refused:
        text = f"vLLM takes adapters on the linear layers of {facts.model_type!r}, not on {_listed(refused)}."
        yield Finding("serving.target_module", "refuse", text, {"modules": refused})


_JUDGES: tuple[tuple[str, Mode, Callable[[Facts], Iterator[Finding]]], ...] = (
    (VLLM, "adapter", _vllm_adapter), (VLLM, "merged", _vllm_merged), (TRANSFORMERS, "merged", _merged),
    (TRANSFORMERS, "adapter", _transformers_adapter),
)  # fmt: skip


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
