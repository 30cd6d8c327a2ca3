"""From the file of a patch to the deltas it adds: paired, matched, and in exact agreement with its configuration.

PEFT applies what configuration and file have in common; engines apply what the file holds. Where the two differ somebody
silently gets another model, so here the set of modules in the file and the set that the configuration names must be equal.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from app.core.arithmetic import Arithmetic, LoadedDelta
from app.core.checkpoint import Checkpoint
from app.core.delta import ReadTensor
from app.core.errors import AdapterError, PortError
from app.core.lora.config import AdapterConfig, Selector
from app.core.naming import linear_modules, tied_modules, weight_of
from app.core.safetensors_header import Header, TensorInfo

FACTOR_DTYPES = ("F32", "F16", "BF16")
PREFIX = "base_model.model."
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings")


@dataclass(frozen=True, slots=True)
class Factors:
    """One module's pair: `a` is (rank, in), `b` is (out, rank); what is added to its weight is scale * b @ a."""

    module: str
    a: TensorInfo
    b: TensorInfo

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True, slots=True)
class LoraDelta:
    """What a patch adds to one checkpoint tensor: W += scale * B @ A."""

    tensor: str
    factors: Factors
    scale: float

    def load(self, read: ReadTensor, arithmetic: Arithmetic) -> LoadedDelta:
        a, b = self.factors.a, self.factors.b
        return arithmetic.load_delta(read(a), a.dtype, read(b), b.dtype, self.factors.shape, self.factors.rank, self.scale)


def pair_factors(header: Header) -> dict[str, Factors]:
    """Pairs the lora_A and lora_B tensors of a patch file by module.

    Raises:
        AdapterError: for every tensor that is not half of a pair of matrices of equal rank and supported dtype.
    """
    halves: dict[str, dict[str, TensorInfo]] = {}
    for tensor in header.tensors:
        module, half = _split(tensor)
        halves.setdefault(module, {})[half] = tensor
    return {module: _pair(module, pair) for module, pair in sorted(halves.items())}


def resolve(config: AdapterConfig, factors: Mapping[str, Factors], base: Checkpoint) -> tuple[LoraDelta, ...]:
    """Matches a patch to a base, all or nothing.

    Returns:
        One delta per touched tensor, sorted by tensor name.

    Raises:
        AdapterError: adapter.empty, adapter.not_targeted, adapter.not_in_file, adapter.tied_target, adapter.embedding,
            adapter.rank, adapter.pattern.
        PortError: port.target_missing, port.shape, port.target_dtype.
    """
    if not factors:
        raise AdapterError("adapter.empty")
    selector, linear = Selector(config), linear_modules(base.tensors)
    selector.require_affordable(max(len(linear), len(factors)))
    named = {m for m in linear if selector.names(m)}
    for module in sorted(named | set(factors)):  # first: one end of a tie has no tensor of its own
        _check_target(module, base)
    missing = [m for m in factors if weight_of(m) not in base.tensors]
    if missing:
        raise PortError("port.target_missing", module=missing[0], count=len(missing))
    if extra := sorted(set(factors) - named):
        raise AdapterError("adapter.not_targeted", count=len(extra), module=extra[0])
    if absent := sorted(named - set(factors)):
        raise AdapterError("adapter.not_in_file", count=len(absent), module=absent[0])
    return tuple(sorted((_delta(config, selector, f, base) for f in factors.values()), key=lambda d: d.tensor))


def _split(tensor: TensorInfo) -> tuple[str, str]:
    """'base_model.model.X.lora_A.weight' -> ('X', 'lora_A'); everything else is refused by what it is."""
    name = tensor.name
    if "lora_embedding" in name or "trainable_tokens" in name or ".base_layer." in name:
        raise AdapterError("adapter.embedding", name=name)
    if "lora_magnitude_vector" in name:
        raise AdapterError("adapter.dora")
    if name.endswith(("lora_A.bias", "lora_B.bias")):
        raise AdapterError("adapter.bias", name="tensor", value=name)
    module, _, ending = name.removesuffix(".weight").rpartition(".")
    if not (name.startswith(PREFIX) and name.endswith(".weight") and ending in ("lora_A", "lora_B")):
        raise AdapterError("adapter.unknown_tensor", tensor=name)
    if tensor.dtype not in FACTOR_DTYPES:
        raise AdapterError("adapter.dtype", tensor=name, dtype=tensor.dtype)
    if len(tensor.shape) != 2:
        raise AdapterError("adapter.expert_parameters", name=name)
    return module.removeprefix(PREFIX), ending


def _pair(module: str, pair: Mapping[str, TensorInfo]) -> Factors:
    if len(pair) != 2:
        present = next(iter(pair))
        raise AdapterError(
            "adapter.unpaired", module=module, present=present, absent={"lora_A": "lora_B", "lora_B": "lora_A"}[present]
        )
    a, b = pair["lora_A"], pair["lora_B"]
    if a.shape[0] != b.shape[1] or 0 in a.shape + b.shape:
        raise AdapterError("adapter.rank", module=module, expected=a.shape[0], actual=b.shape[1])
    return Factors(module, a, b)


def _check_target(module: str, base: Checkpoint) -> None:
    last = module.rpartition(".")[2]
    if last in tied_modules(base.config):
        raise AdapterError("adapter.tied_target", module=module)
    if last in EMBEDDINGS:
        raise AdapterError("adapter.embedding", name=module)


def _delta(config: AdapterConfig, selector: Selector, factors: Factors, base: Checkpoint) -> LoraDelta:
    weight = base.tensors[weight_of(factors.module)]
    if len(weight.shape) != 2:
        raise AdapterError("adapter.expert_parameters", name=weight.name)
    if weight.shape != factors.shape:
        raise PortError("port.shape", module=factors.module, delta=_shape(factors.shape), weight=_shape(weight.shape))
    base.require_mergeable(weight)
    rank, alpha = selector.rank_and_alpha(factors.module)
    if rank != factors.rank:
        raise AdapterError("adapter.rank", module=factors.module, expected=rank, actual=factors.rank)
    return LoraDelta(weight.name, factors, config.scaling(rank, alpha))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
