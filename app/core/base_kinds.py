"""Kinds of bases: how the tensors of a checkpoint are stored.

A kind of base is one entry of `BASE_KINDS`; the first that supports a checkpoint's config.json is used. All kinds are
safetensors files; they differ in the numbers that the stored elements represent. Scales in separate tensors are not supported
yet; they would be prepass vectors, like those of patches (`app.core.delta.Adapter.prepass`).
"""

from collections.abc import Mapping
from typing import Any, Protocol

from app.core.arithmetic import Codec
from app.core.errors import CheckpointError
from app.core.safetensors_header import TensorInfo


class BaseKind(Protocol):
    """How a checkpoint stores numbers; dtypes are safetensors names.

    Attributes:
        summary: a description, for messages, of the tensors that a patch can be added to.
        mergeable: dtypes of tensors that a delta can be added to.
        floats: dtypes of tensors that the dtype of a recipe converts.
    """

    summary: str
    mergeable: frozenset[str]
    floats: frozenset[str]

    def reads(self, config: Mapping[str, Any]) -> bool:
        """Returns whether a checkpoint with this config.json is of this kind."""

    def codec(self, config: Mapping[str, Any], tensor: TensorInfo) -> Codec | None:
        """Returns the codec of a tensor's elements; None if the elements are the numbers themselves."""


class Floats:
    """Weights of 16 or 32 bits, stored as floating-point numbers."""

    summary = "F32, F16 or BF16 weights"
    mergeable = frozenset({"F32", "F16", "BF16"})
    floats = mergeable | {"F64"}

    def reads(self, config: Mapping[str, Any]) -> bool:
        return not config.get("quantization_config")

    def codec(self, config: Mapping[str, Any], tensor: TensorInfo) -> None:  # noqa: ARG002  stored elements are the numbers
        return None


BASE_KINDS: tuple[BaseKind, ...] = (Floats(),)


def base_kind(config: Mapping[str, Any]) -> BaseKind:
    """Returns the kind of a checkpoint by its config.json.

    Raises:
        CheckpointError: checkpoint.quantized.
    """
    for kind in BASE_KINDS:
        if kind.reads(config):
            return kind
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method", "unknown") if isinstance(quantization, dict) else "unknown"
    raise CheckpointError("checkpoint.quantized", method=str(method)[:60], supported=supported_bases())


def supported_bases() -> str:
    """Returns a description of all kinds, for messages."""
    return ", or ".join(kind.summary for kind in BASE_KINDS)
