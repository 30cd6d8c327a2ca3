"""What the merge asks of a tensor library, and the one place that fetches it."""

import importlib
import os
from functools import cache
from typing import Any, NamedTuple, Protocol, cast

from app.core.gc_pause import collector_off

Buffer = bytearray | memoryview
# Threads that compute blocks wait for the interpreter's lock: on 16 cores, 4 merged 1.3 times what 16 did
# (tests/benchmarks/accelerator.py).
MOST_THREADS = 4


class Block(NamedTuple):
    """A block of a matrix on the grid of the recipe: rows [row, row + rows), columns [column, column + columns)."""

    row: int
    rows: int
    column: int
    columns: int


class Moments(NamedTuple):
    """Sums over pairs of numbers (x, y), in float64: sum x*y, sum x*x, sum y*y."""

    xy: float
    xx: float
    yy: float

    def plus(self, other: "Moments") -> "Moments":
        return Moments(self.xy + other.xy, self.xx + other.xx, self.yy + other.yy)


# A tensor of the library that computes. Kinds and strategies only call its methods, and do not import the library.
Tensor = Any


class Codec(Protocol):
    """Converts stored elements that are not themselves numbers to numbers and back, element by element."""

    def decode(self, stored: Tensor) -> Tensor:
        """Returns the numbers as floats of any width; float64 must be able to represent them exactly."""

    def encode(self, exact: Tensor) -> tuple[Tensor, int]:
        """Returns float64 numbers as stored elements, and the number of those that overflow."""


class Encoding(NamedTuple):
    """How the elements of a tensor are stored: a safetensors dtype, and a codec unless the elements are the numbers."""

    dtype: str
    codec: Codec | None = None


class LoadedDelta(Protocol):
    """The values of a delta, ready for blocks. Used by several threads.

    Attributes:
        bound: no element of D has a larger magnitude.
        nbytes: memory that it holds, in bytes.
    """

    @property
    def bound(self) -> float: ...

    @property
    def nbytes(self) -> int: ...

    def adds_nothing(self) -> bool:
        """Returns whether D is zero."""

    def write(self, block: Block, out: Tensor) -> None:
        """Writes the block of D into `out`, float64 (rows, columns). Its bits do not depend on which other blocks are read."""


class Arithmetic(Protocol):
    """The arithmetic of section "how it is computed" in the README; dtypes are safetensors names, buffers are row-major."""

    def numbers(self, data: bytearray, dtype: str) -> Tensor:
        """Returns elements as float64 on the device. For kinds of patches that load their deltas themselves."""

    def load_delta(
        self, a: bytearray, a_dtype: str, b: bytearray, b_dtype: str, shape: tuple[int, int], rank: int, scale: float
    ) -> LoadedDelta:
        """Returns a product of factors: A1 = float64(A) * scale (rank x in), float64(B) (out x rank), D = mm(float64(B), A1)."""

    def merge_block(
        self, weight: Buffer, stored: Encoding, delta: LoadedDelta | None, block: Block, out: memoryview, target: Encoding
    ) -> int:
        """Writes float64(W) + D, rounded to the encoding `target`, into `out`; returns how many values overflowed."""

    def fidelity(
        self, weight: Buffer, stored: Encoding, delta: LoadedDelta | None, block: Block, target: Encoding
    ) -> tuple[Moments, int]:
        """Moments of x = Q(W + D) - W and y = D over a block, and how many values of Q(W + D) overflowed."""

    def compare(self, x: bytearray, x_stored: Encoding, y: bytearray, y_stored: Encoding) -> Moments:
        """Moments of two equally long runs of numbers."""

    def count_non_finite(self, data: bytearray, dtype: str) -> int:
        """How many values are NaN or infinite."""


def threads() -> int:
    """How many threads compute blocks fastest on this machine."""
    return min(MOST_THREADS, os.cpu_count() or 1)


class Device(NamedTuple):
    """What a worker computes on: its name for torch, its name for people, its memory in bytes."""

    id: str
    name: str
    memory: int


@cache
def load(device: str = "cpu") -> Arithmetic:
    """Imports torch (one to three seconds) and returns its arithmetic on a device, "cpu" or "cuda"."""
    return cast(Arithmetic, _module().TorchArithmetic(device))


def host() -> Device:
    """This machine without an accelerator."""
    return Device("cpu", "cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def best_device() -> Device:
    """The accelerator that torch sees (it is imported for that), or the host."""
    found = _module().best_device()
    return Device(*found) if found else host()


def _module() -> Any:
    """torch's arithmetic, by name and on first use: a process that never merges never loads torch.

    The import contracts know this line.
    """
    with collector_off():
        return importlib.import_module("app.core.tensor.arithmetic")
