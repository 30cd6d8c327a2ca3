"""The kind of patch that PEFT calls LORA."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from app.core.checkpoint import Checkpoint
from app.core.delta import Adapter
from app.core.lora.config import AdapterConfig, Selector, parse
from app.core.lora.deltas import Factors, LoraDelta, pair_factors, resolve
from app.core.safetensors_header import Header


@dataclass(frozen=True)
class LoraAdapter(Adapter):
    """The configuration of a LoRA patch and its factors by module."""

    config: AdapterConfig
    factors: Mapping[str, Factors]

    @property
    def modules(self) -> Collection[str]:
        return self.factors.keys()

    @property
    def ranks(self) -> frozenset[int]:
        return frozenset(pair.rank for pair in self.factors.values())

    def require_affordable(self) -> None:
        Selector(self.config).require_affordable(len(self.factors))

    def resolve(self, base: Checkpoint, vectors: Mapping[str, bytes] | None = None) -> tuple[LoraDelta, ...]:  # noqa: ARG002
        return resolve(self.config, self.factors, base)

    def summary(self) -> dict[str, Any]:
        return {"rank": self.config.rank, "alpha": self.config.alpha, "rslora": self.config.rslora}


class Lora:
    """`app.core.delta.PatchKind` for LoRA, with rank and alpha patterns and rsLoRA."""

    peft_type = "LORA"

    def parse(self, raw: Mapping[str, Any]) -> AdapterConfig:
        return parse(raw)

    def match(self, config: AdapterConfig, header: Header) -> LoraAdapter:
        return LoraAdapter(config, pair_factors(header))
