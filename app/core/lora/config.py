"""adapter_config.json of PEFT: read, and refused wherever it asks for more than W + s*B*A.

PEFT itself only warns about settings it does not know and ignores tensors that its configuration does not name, so a
patch can silently do something else than what was trained. Here every field is either understood, known to be without
effect on a merge, or refused. Field by field: PEFT 0.21 `LoraConfig`.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.adapter import MAX_LIST, boolean, integer, invalid_config, mapping, names, number, optional_text
from app.core.errors import AdapterError
from app.core.patterns import LOOKUP_UNITS, MATCH_UNITS, FirstMatch, Pattern, compile_all, require_affordable

MAX_RANK = 4096

# Known to have no effect on B*A (training-only, bookkeeping), whatever their value.
WITHOUT_EFFECT = frozenset({
    "auto_mapping", "base_model_name_or_path", "eva_config", "inference_mode", "lora_dropout", "megatron_core",
    "peft_type", "peft_version", "qalora_group_size", "revision", "task_type",
})  # fmt: skip
READ = frozenset({
    "alpha_pattern", "exclude_modules", "layers_pattern", "layers_to_transform", "lora_alpha", "r", "rank_pattern",
    "target_modules", "use_rslora",
})  # fmt: skip
OFF: tuple[Any, ...] = (None, False, {}, [], "")
# Field -> the code it is refused with, and the values that ask for nothing.
REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "use_dora": ("adapter.dora", OFF),
    "modules_to_save": ("adapter.modules_to_save", OFF),
    "bias": ("adapter.bias", (None, "none")),
    "lora_bias": ("adapter.bias", OFF),
    "trainable_token_indices": ("adapter.embedding", OFF),
    "ensure_weight_tying": ("adapter.embedding", OFF),
    "target_parameters": ("adapter.expert_parameters", OFF),
    "fan_in_fan_out": ("adapter.fan_in_fan_out", OFF),
    **dict.fromkeys(
        (
            "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "megatron_config", "monteclora_config",
            "use_bdlora", "use_qalora", "velora_config",
        ),
        ("adapter.variant", OFF),
    ),
    **dict.fromkeys(("corda_config", "loftq_config", "lora_ga_config"), ("adapter.init_changes_base", OFF)),
}  # fmt: skip
INIT = "init_lora_weights"
# What a field that is not known here says nothing with. Zero is not among them: it may be a factor.
SILENT: tuple[Any, ...] = (None, False, {}, [], "")
INIT_HARMLESS: tuple[Any, ...] = (None, True, False, "gaussian", "orthogonal", "eva", "mica")
# These take a part of the base out of it before the training begins.
INIT_CHANGES_BASE = re.compile(r"pissa(_niter_\d+)?|olora|corda|loftq|lora_ga")
UNDERSTOOD = READ | WITHOUT_EFFECT | set(REFUSED) | {INIT}


@dataclass(frozen=True)
class AdapterConfig:
    """What a merge needs of adapter_config.json. `alpha` and `rank` are the defaults; patterns override them by module."""

    rank: int
    alpha: float
    rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...] | None
    layers_to_transform: tuple[int, ...] | None
    layers_pattern: tuple[str, ...]
    base_model: str | None
    revision: str | None

    def scaling(self, rank: int, alpha: float) -> float:
        """s = alpha/r, or alpha/sqrt(r) for rsLoRA (arXiv 2312.03732)."""
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


def parse(raw: Mapping[str, Any]) -> AdapterConfig:
    """Reads adapter_config.json.

    Raises:
        AdapterError: adapter.invalid_config, or the code of the first feature that is not supported.
    """
    _refuse_unsupported(raw)
    rank = integer(raw.get("r"), "r", 1, MAX_RANK)
    return AdapterConfig(
        rank=rank,
        alpha=number(raw.get("lora_alpha"), "lora_alpha"),
        rslora=boolean(raw.get("use_rslora", False), "use_rslora"),
        rank_pattern={k: integer(v, "rank_pattern", 1, MAX_RANK) for k, v in mapping(raw, "rank_pattern").items()},
        alpha_pattern={k: number(v, "alpha_pattern") for k, v in mapping(raw, "alpha_pattern").items()},
        target_modules=names(raw.get("target_modules"), "target_modules") or _missing("target_modules"),
        exclude_modules=names(raw.get("exclude_modules"), "exclude_modules"),
        layers_to_transform=_layers(raw.get("layers_to_transform")),
        layers_pattern=_as_tuple(names(raw.get("layers_pattern"), "layers_pattern")),
        base_model=optional_text(raw.get("base_model_name_or_path"), "base_model_name_or_path"),
        revision=optional_text(raw.get("revision"), "revision"),
    )


class Selector:
    """Which modules a configuration names, and with what rank and alpha; the rules of PEFT's inject step."""

    def __init__(self, config: AdapterConfig) -> None:
        self._config = config
        self._target = _Names(config.target_modules, "target_modules")
        self._exclude = _Names(config.exclude_modules or (), "exclude_modules")
        templates = config.layers_pattern or (r"[^.]*",)
        prefix = r"(?:^|.*?\.){}\.(\d+)\." if config.layers_pattern else r".*?\.{}\.(\d+)\."
        self._layers = list(compile_all(templates, "layers_pattern", prefix)) if config.layers_to_transform else []
        self._ranks = FirstMatch(tuple(config.rank_pattern), "rank_pattern")
        self._alphas = FirstMatch(tuple(config.alpha_pattern), "alpha_pattern")
        self._rank_values, self._alpha_values = tuple(config.rank_pattern.values()), tuple(config.alpha_pattern.values())

    def require_affordable(self, modules: int) -> None:
        """Refuses patterns that would take too long to match against that many modules.

        Raises:
            AdapterError: adapter.pattern.
        """
        layers = sum(MATCH_UNITS + pattern.program_size for pattern in self._layers)
        units = {
            "target_modules": self._target.units, "exclude_modules": self._exclude.units, "layers_pattern": layers,
            "rank_pattern": self._ranks.units, "alpha_pattern": self._alphas.units,
        }  # fmt: skip
        require_affordable(units, modules)

    def names(self, module: str) -> bool:
        """True where PEFT would put a LoRA layer on this module (dotted path inside the base model)."""
        if self._exclude.match(module) or not self._target.match(module):
            return False
        if not self._layers or self._target.exact(module):
            return True
        index = next((i for i in (p.first_group(module) for p in self._layers) if i is not None), None)
        return index is not None and int(index) in (self._config.layers_to_transform or ())

    def rank_and_alpha(self, module: str) -> tuple[int, float]:
        """The first pattern that matches wins, as in PEFT."""
        rank, alpha = self._ranks.find(module), self._alphas.find(module)
        return (
            self._config.rank if rank is None else self._rank_values[rank],
            self._config.alpha if alpha is None else self._alpha_values[alpha],
        )


class _Names:
    """target_modules and exclude_modules: a pattern for the whole path, or a list of paths and path endings."""

    def __init__(self, names: str | tuple[str, ...], field: str) -> None:
        self._all_linear = names == "all-linear"
        self._pattern = Pattern(names, field) if isinstance(names, str) and not self._all_linear else None
        self._names = frozenset(() if isinstance(names, str) else names)

    @property
    def units(self) -> int:
        """The maximum cost of matching one module; see `patterns.MAX_MATCHING`."""
        return LOOKUP_UNITS + (MATCH_UNITS + self._pattern.program_size if self._pattern else 0)

    def match(self, module: str) -> bool:
        if self._all_linear:
            return module.rpartition(".")[2] not in ("embed_tokens", "lm_head")
        if self._pattern:
            return self._pattern.fullmatch(module)
        parts = module.split(".")
        return any(".".join(parts[i:]) in self._names for i in range(len(parts)))

    def exact(self, module: str) -> bool:
        """PEFT looks at layers_to_transform only where a list entry matched by its ending."""
        return module in self._names or self._pattern is not None or self._all_linear


def asks_for_more(field: str, value: Any) -> bool:
    """Returns whether a setting requests anything beyond W + s*B*A."""
    if field == INIT:
        return not _is_one_of(value, INIT_HARMLESS)
    if field in REFUSED:
        return not _is_one_of(value, REFUSED[field][1])
    return field not in UNDERSTOOD and value not in OFF


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    for field, (code, harmless) in REFUSED.items():
        value = raw.get(field)
        if not _is_one_of(value, harmless):
            raise AdapterError(code, name=field, value=json.dumps(value)[:200])
    _check_init(raw.get(INIT))
    for field, value in raw.items():
        if field not in UNDERSTOOD and (field == "auto_map" or not _is_one_of(value, SILENT)):
            raise AdapterError("adapter.unknown_field", field=field[:100], value=json.dumps(value)[:100])


def _check_init(value: Any) -> None:
    if _is_one_of(value, INIT_HARMLESS):
        return
    if isinstance(value, str) and INIT_CHANGES_BASE.fullmatch(value.lower()):
        raise AdapterError("adapter.init_changes_base", name=INIT, value=json.dumps(value)[:200])
    raise AdapterError("adapter.unknown_field", field=INIT, value=json.dumps(value)[:100])


def _is_one_of(value: Any, allowed: tuple[Any, ...]) -> bool:
    """True and 1 are not the same here."""
    return any(type(value) is type(v) and value == v for v in allowed)


def _missing(field: str) -> Any:
    raise invalid_config(f"{field} is missing or empty")


def _as_tuple(names: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names or ()


def _layers(value: Any) -> tuple[int, ...] | None:
    items = [value] if type(value) is int else value
    if not items:
        return None
    if not isinstance(items, list) or len(items) > MAX_LIST:
        raise invalid_config("layers_to_transform must be a list of layer numbers")
    return tuple(integer(v, "layers_to_transform", 0, MAX_LIST) for v in items)
