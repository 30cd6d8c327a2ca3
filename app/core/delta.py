"""The interfaces of kinds of patches, and of the deltas that they make: a delta is what is added to one tensor of a base."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from app.core.arithmetic import Arithmetic, LoadedDelta
from app.core.checkpoint import Checkpoint
from app.core.safetensors_header import Header, TensorInfo

# Reads the bytes of a tensor: of the patch's weights file, or of a base.
ReadTensor = Callable[[TensorInfo], bytearray]


class Delta(Protocol):
    """What is added to one tensor of a base, before its values are read. Kinds of patches make deltas; strategies change them."""

    @property
    def tensor(self) -> str:
        """The name of the tensor in the base."""

    def load(self, read: ReadTensor, arithmetic: Arithmetic) -> LoadedDelta:
        """Reads the values from the weights file of the patch."""


class PatchConfig(Protocol):
    """The fields of adapter_config.json that every kind reads: those that name the base."""

    @property
    def base_model(self) -> str | None: ...

    @property
    def revision(self) -> str | None: ...


class Adapter:
    """The configuration and the tensors of a patch, matched with each other. Each kind of patch has a subclass."""

    @property
    def needs_prepass(self) -> bool:
        """Whether `resolve` needs what `prepass` returns."""
        return False

    @property
    def modules(self) -> Collection[str]:
        """The modules that the patch changes, as dotted paths in the base model."""
        raise NotImplementedError

    @property
    def ranks(self) -> frozenset[int]:
        """The ranks of its factors; none where the kind has no factors."""
        return frozenset()

    def require_affordable(self) -> None:
        """Refuses a patch that cannot be used with any base, for example because its patterns are too slow to match.

        Raises:
            AdapterError: the code of the reason.
        """

    def resolve(self, base: Checkpoint, vectors: Mapping[str, bytes] | None = None) -> tuple[Delta, ...]:
        """Matches the patch to a base, all or nothing.

        Args:
            base: the base.
            vectors: the result of `prepass`; None for a kind without a prepass.

        Returns:
            One delta per touched tensor, sorted by tensor name.

        Raises:
            AdapterError, PortError: the code of the reason.
        """
        raise NotImplementedError

    def prepass(
        self,
        base: Checkpoint,  # noqa: ARG002  for kinds that need it
        read_base: ReadTensor,  # noqa: ARG002
        read: ReadTensor,  # noqa: ARG002
        arithmetic: Arithmetic,  # noqa: ARG002
    ) -> Mapping[str, bytes]:
        """Computes vectors from whole tensors of base and patch, once, before any block; returns them by tensor of the base.

        The digest of the result (`recipe.digest_of_vectors`) is part of the fingerprint.
        """
        return {}

    def summary(self) -> dict[str, Any]:
        """Returns the figures that lists show for patches of this kind, as plain JSON."""
        return {}


class PatchKind(Protocol):
    """Reads patches of one `peft_type`."""

    peft_type: str

    def parse(self, raw: Mapping[str, Any]) -> PatchConfig:
        """Reads adapter_config.json.

        Raises:
            AdapterError: adapter.invalid_config, or the code of the first feature that is not supported.
        """

    def match(self, config: Any, header: Header) -> Adapter:
        """Matches what `parse` returned with the header of the weights file.

        Raises:
            AdapterError: a tensor does not belong to this kind, or another tensor that it needs is missing.
        """
