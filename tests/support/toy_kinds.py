"""A kind of patch, a kind of base and a strategy that nothing else knows: what a new one of each has to bring.

They use no part of the product but the seams (`app.core.delta`, `app.core.base_kinds`, `app.core.strategies`).
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.core import base_kinds
from app.core.adapter import number, optional_text
from app.core.arithmetic import Arithmetic, Block, LoadedDelta, Tensor
from app.core.checkpoint import Checkpoint
from app.core.delta import Adapter, Delta, ReadTensor
from app.core.errors import AdapterError, PortError
from app.core.patch_kinds import PATCH_KINDS
from app.core.safetensors_header import Header, TensorInfo
from app.core.strategies import STRATEGIES
from tests.support import files

ENDING = ".toy_diagonal"


@dataclass(frozen=True)
class LoadedDiagonal:
    """D is zero but on the diagonal."""

    values: Tensor
    bound: float

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes)

    def adds_nothing(self) -> bool:
        return self.bound == 0

    def write(self, block: Block, out: Tensor) -> None:
        out.zero_()
        first = max(block.row, block.column)
        end = min(block.row + block.rows, block.column + block.columns, len(self.values))
        if first < end:
            square = out[first - block.row : end - block.row, first - block.column : end - block.column]
            square.diagonal().copy_(self.values[first:end])


@dataclass(frozen=True)
class DiagonalDelta:
    """W += gain * diag(values), or gain * diag(values * norms of the rows of W)."""

    tensor: str
    values: TensorInfo
    gain: float
    norms: bytes | None

    def load(self, read: ReadTensor, arithmetic: Arithmetic) -> LoadedDelta:
        values = arithmetic.numbers(read(self.values), self.values.dtype).mul_(self.gain)
        if self.norms is not None:
            values *= arithmetic.numbers(bytearray(self.norms), "F64")
        return LoadedDiagonal(values, float(values.abs().max()))


@dataclass(frozen=True)
class DiagonalConfig:
    gain: float
    normed: bool
    base_model: str | None
    revision: None = None


@dataclass(frozen=True)
class DiagonalAdapter(Adapter):
    config: DiagonalConfig
    values: Mapping[str, TensorInfo]

    @property
    def needs_prepass(self) -> bool:
        return self.config.normed

    @property
    def modules(self) -> Collection[str]:
        return self.values.keys()

    def resolve(self, base: Checkpoint, vectors: Mapping[str, bytes] | None = None) -> tuple[Delta, ...]:
        deltas = []
        for module, values in sorted(self.values.items()):
            if (name := f"{module}.weight") not in base.tensors:
                raise PortError("port.target_missing", module=module, count=1)
            base.require_mergeable(base.tensors[name])
            deltas.append(DiagonalDelta(name, values, self.config.gain, vectors[name] if vectors else None))
        return tuple(deltas)

    def prepass(
        self,
        base: Checkpoint,
        read_base: ReadTensor,
        read: ReadTensor,  # noqa: ARG002
        arithmetic: Arithmetic,
    ) -> Mapping[str, bytes]:
        weights = [base.tensors[f"{module}.weight"] for module in sorted(self.values)]
        return {
            weight.name: arithmetic.numbers(read_base(weight), weight.dtype).view(weight.shape).norm(dim=1).numpy().tobytes()
            for weight in weights
        }

    def summary(self) -> dict[str, Any]:
        return {"gain": self.config.gain}


class Diagonal:
    """`PatchKind`: one vector for each module, `base_model.model.MODULE.toy_diagonal`."""

    peft_type = "TOY_DIAGONAL"

    def parse(self, raw: Mapping[str, Any]) -> DiagonalConfig:
        named = optional_text(raw.get("base_model_name_or_path"), "base_model_name_or_path")
        return DiagonalConfig(number(raw.get("gain"), "gain"), raw.get("normed") is True, named)

    def match(self, config: DiagonalConfig, header: Header) -> DiagonalAdapter:
        values = {}
        for tensor in header.tensors:
            if not tensor.name.endswith(ENDING) or len(tensor.shape) != 1:
                raise AdapterError("adapter.unknown_tensor", tensor=tensor.name)
            values[tensor.name.removeprefix("base_model.model.").removesuffix(ENDING)] = tensor
        return DiagonalAdapter(config, values)


def write_diagonal(path: Path, module: str, length: int, **config: Any) -> Path:
    """A patch of this kind on one module."""
    path.mkdir(parents=True)
    settings = {"peft_type": Diagonal.peft_type, "gain": 3.0, **config}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {f"base_model.model.{module}{ENDING}": files.matrix((length,), "F32", 7)}
    (path / "adapter_model.safetensors").write_bytes(files.safetensors_bytes(tensors))
    return path


@dataclass(frozen=True)
class Scaled:
    """`Codec`: a whole number of 8 bits stands for itself times a scale."""

    scale: float

    def decode(self, stored: Tensor) -> Tensor:
        return stored.double() * self.scale

    def encode(self, exact: Tensor) -> tuple[Tensor, int]:
        whole = (exact / self.scale).round()
        kept = whole.clamp(-128, 127)
        return kept.char(), int((whole != kept).sum())


class EightBits:
    """`BaseKind`: config.json says {"quantization_config": {"quant_method": "toy_8bit", "scale": ...}}."""

    summary = "I8 weights of toy_8bit"
    mergeable = frozenset({"I8"})
    floats = frozenset({"F32", "F16", "BF16"})

    def reads(self, config: Mapping[str, Any]) -> bool:
        return bool(config.get("quantization_config", {}).get("quant_method") == "toy_8bit")

    def codec(self, config: Mapping[str, Any], tensor: TensorInfo) -> Scaled | None:
        return Scaled(config["quantization_config"]["scale"]) if tensor.dtype == "I8" else None


def eight_bits(shape: tuple[int, int], seed: int) -> files.Tensor:
    """A weight of this kind."""
    return "I8", shape, (files.integers(math.prod(shape), seed) // 512).astype("i1").tobytes()


@dataclass(frozen=True)
class LoadedHalf:
    whole: LoadedDelta

    @property
    def bound(self) -> float:
        return self.whole.bound / 2

    @property
    def nbytes(self) -> int:
        return self.whole.nbytes

    def adds_nothing(self) -> bool:
        return self.whole.adds_nothing()

    def write(self, block: Block, out: Tensor) -> None:
        self.whole.write(block, out)
        out.mul_(0.5)


@dataclass(frozen=True)
class Half:
    whole: Delta

    @property
    def tensor(self) -> str:
        return self.whole.tensor

    def load(self, read: ReadTensor, arithmetic: Arithmetic) -> LoadedDelta:
        return LoadedHalf(self.whole.load(read, arithmetic))


class Halve:
    """`Strategy`: half of what the patch holds, whatever kind it is."""

    name = "halve"
    summary = '"halve" adds half of it.'

    def apply(self, deltas: tuple[Delta, ...]) -> tuple[Delta, ...]:
        return tuple(map(Half, deltas))


def register(patching: pytest.MonkeyPatch) -> None:
    """Adds each to its registry, until the end of a test."""
    patching.setitem(PATCH_KINDS, Diagonal.peft_type, Diagonal())
    patching.setitem(STRATEGIES, Halve.name, Halve())
    patching.setattr(base_kinds, "BASE_KINDS", (*base_kinds.BASE_KINDS, EightBits()))
