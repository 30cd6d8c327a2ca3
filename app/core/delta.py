"""What a kind of patch makes: deltas, each what is added to one tensor of a base, before their values are read."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from app.core.arithmetic import Arithmetic, LoadedDelta
from app.core.checkpoint import Checkpoint
from app.core.safetensors_header import Header, TensorInfo

# Reads the bytes of a tensor: of the patch's weights file, or of a base.
ReadTensor = Callable[[TensorInfo], bytearray]


class Delta(Protocol):
    """What is added to one tensor of a base. Kinds of patches make deltas; strategies turn them into other deltas."""

    @property
    def tensor(self) -> str:
        """The name of the tensor in the base."""

    def load(self, read: ReadTensor, arithmetic: Arithmetic) -> LoadedDelta:
        """Reads the values from the weights file of the patch."""


class PatchConfig(Protocol):
    """What every kind reads from adapter_config.json: the base that it names."""

    @property
    def base_model(self) -> str | None: ...

    @property
    def revision(self) -> str | None: ...


class Adapter:
    """A patch's configuration and tensors, matched with each other. Kinds of patches derive from it."""

    @property
    def needs_prepass(self) -> bool:
        """Whether `resolve` needs what `prepass` returns."""
        return False

    @property
    def modules(self) -> Collection[str]:
        """Dotted paths inside the base model of the modules that it changes."""
        raise NotImplementedError

    @property
    def ranks(self) -> frozenset[int]:
        """The ranks of its factors; none where the kind has no factors."""
        return frozenset()

    def require_affordable(self) -> None:
        """Refuses what no base can make usable, such as patterns that are too slow to match.

        Raises:
            AdapterError: the code of the reason.
        """

    def resolve(self, base: Checkpoint, vectors: Mapping[str, bytes] | None = None) -> tuple[Delta, ...]:
        """Matches the patch to a base, all or nothing.

        Args:
            base: the base.
            vectors: what `prepass` returned; None for a kind that needs nothing.

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
        """Computes what the kind needs of whole tensors of base and patch, once, before any block: by tensor of the base.

        The digest of the result (`recipe.digest_of_vectors`) is part of the fingerprint.
        """
        return {}

    def summary(self) -> dict[str, Any]:
        """Returns figures of this kind for lists, as plain JSON."""
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
            AdapterError: a tensor is none of this kind, or is incomplete.
        """
