"""The canonical arithmetic of a merge, in torch, on the CPU or an accelerator.

    A1 = float64(A) * float64(s);  D = mm(float64(B), A1);  out = (float64(W') + D).to(t)

Product, then sum, never fused: a fused kernel rounds differently from one processor to the next. float64 everywhere
makes the noise of summation order (2^-53) vanish in the rounding to the stored dtype, so that threads, block sizes and
instruction sets give the same bytes. `.to` of a half type goes through float32, as torch does.
"""

import math
import threading
from dataclasses import dataclass
from typing import NamedTuple

import torch

from app.core.arithmetic import Block, Buffer, Encoding, LoadedDelta, Moments

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
# MKL may choose another kernel for operands that do not start on a cache line; every operand here does.
ALIGNMENT = 64
# How far a dtype reaches, in order. Within one dtype a delta below 2^100 cannot carry a finite bf16 or float32 number over
# the end: half a unit there is 2^103 or more. float16 ends at 65504, which ordinary numbers can pass.
REACH = {"F16": 0, "BF16": 1, "F32": 2, "F64": 3}
HARMLESS_DELTA = 2.0**100
SHAPES = 64  # of blocks, for which a thread keeps its views


@dataclass(frozen=True, slots=True)
class LowRank:
    """`LoadedDelta` of factors: `a` is (rank, in), already scaled; `b` is (out, rank); both float64."""

    a: torch.Tensor
    b: torch.Tensor
    bound: float

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes

    def adds_nothing(self) -> bool:
        """Returns whether no rank contributes to D, because its column of B or its row of A is zero."""
        if not self.bound:
            return True
        return not bool((self.a.abs().amax(1) * self.b.abs().amax(0)).any())

    def write(self, block: Block, out: torch.Tensor) -> None:
        a, b = self.a, self.b[block.row : block.row + block.rows]
        if block.columns != a.shape[1]:
            a = a[:, block.column : block.column + block.columns].contiguous()
        torch.mm(b if b.data_ptr() % ALIGNMENT == 0 else b.clone(), a, out=out)


class Scratch(NamedTuple):
    """Where a thread computes blocks of one shape, in float64: `total` (rows * columns), the same as a `matrix` (rows, columns),
    and `product` (rows, columns). Views are kept because every call of torch waits for the interpreter's lock, beside other
    threads longer than it takes.
    """

    total: torch.Tensor
    matrix: torch.Tensor
    product: torch.Tensor


class TorchArithmetic:
    """`app.core.arithmetic.Arithmetic` by torch. Safe to use from several threads; each keeps its own scratch space.

    Args:
        device: where products and sums are made, "cpu" or "cuda". Buffers come from and go to host memory either way.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._local = threading.local()
        self._device = torch.device(device)

    def load_delta(
        self, a: bytearray, a_dtype: str, b: bytearray, b_dtype: str, shape: tuple[int, int], rank: int, scale: float
    ) -> LowRank:
        self._prepare_thread()
        rows, columns = shape
        scaled = _view(a, a_dtype).view(rank, columns).double().mul_(scale)
        factor = _view(b, b_dtype).view(rows, rank).double()
        bound = rank * _largest(scaled) * _largest(factor)
        return LowRank(scaled.to(self._device), factor.to(self._device), bound)

    def numbers(self, data: bytearray, dtype: str) -> torch.Tensor:
        self._prepare_thread()
        return _view(data, dtype).double().to(self._device)

    def merge_block(
        self, weight: Buffer, stored: Encoding, delta: LoadedDelta | None, block: Block, out: memoryview, target: Encoding
    ) -> int:
        total = self._sum(_decoded(weight, stored), delta, block).total
        written = _view(out, target.dtype)
        if target.codec:
            elements, overflow = target.codec.encode(total)
            written.copy_(elements)
            return overflow
        if self._is_host:
            rounded = written.copy_(total)
        else:
            # Rounded before it leaves the device: a half or a quarter of the traffic.
            rounded = total.to(written.dtype)
            written.copy_(rounded)
        fits = not stored.codec and REACH[stored.dtype] <= REACH[target.dtype] and target.dtype != "F16"
        if fits and (delta is None or delta.bound < HARMLESS_DELTA):
            return 0
        return _overflow(rounded, total)

    def fidelity(
        self, weight: Buffer, stored: Encoding, delta: LoadedDelta | None, block: Block, target: Encoding
    ) -> tuple[Moments, int]:
        before = _decoded(weight, stored)
        held = self._sum(before, delta, block)
        if target.codec:
            elements, overflow = target.codec.encode(held.total)
            kept = target.codec.decode(elements).double()
        else:
            kept = held.total.to(DTYPES[target.dtype]).double()
            overflow = _overflow(kept, held.total)
        kept.sub_(before.to(self._device))
        return _moments(kept, held.product.flatten()), overflow

    def compare(self, x: bytearray, x_stored: Encoding, y: bytearray, y_stored: Encoding) -> Moments:
        self._prepare_thread()
        return _moments(_decoded(x, x_stored).double(), _decoded(y, y_stored).double())

    def count_non_finite(self, data: bytearray, dtype: str) -> int:
        self._prepare_thread()
        return int((~torch.isfinite(_view(data, dtype))).sum())

    def _sum(self, stored: torch.Tensor, delta: LoadedDelta | None, block: Block) -> Scratch:
        """float64(W) + D and D, both in this thread's scratch space: valid until its next call."""
        self._prepare_thread()
        held = self._scratch(block.rows, block.columns)
        # Widened where it is computed: `copy_` from the host would send float64.
        held.total.copy_(stored if self._is_host else stored.to(self._device))
        if delta is None:
            return held
        delta.write(block, held.product)
        held.matrix.add_(held.product)
        return held

    def _scratch(self, rows: int, columns: int) -> Scratch:
        shapes: dict[tuple[int, int], Scratch] = self._local.shapes
        if (rows, columns) not in shapes:
            space: torch.Tensor = self._local.space
            if space.shape[1] < rows * columns:
                space = self._local.space = torch.empty(2, _rounded(rows * columns), dtype=torch.float64, device=self._device)
                shapes.clear()
            elif len(shapes) >= SHAPES:
                shapes.clear()
            total, product = space[:, : rows * columns]
            shapes[rows, columns] = Scratch(total, total.view(rows, columns), product.view(rows, columns))
        return shapes[rows, columns]

    @property
    def _is_host(self) -> bool:
        return self._device.type == "cpu"

    def _prepare_thread(self) -> None:
        if hasattr(self._local, "space"):
            return
        # The setting belongs to the thread that makes it; blocks run in parallel, so each needs just one.
        torch.set_num_threads(1)
        if not self._is_host:
            # Else all threads' copies and products wait for each other in one queue of the device.
            torch.cuda.set_stream(torch.cuda.Stream(self._device))
        self._local.shapes = {}
        self._local.space = torch.empty(2, 0, dtype=torch.float64, device=self._device)


def best_device() -> tuple[str, str, int] | None:
    """The accelerator to compute on: for torch, its name, its memory in bytes; None where there is only the CPU."""
    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return "cuda", str(found.name), int(found.total_memory)


def _rounded(elements: int) -> int:
    """Whole cache lines, so that the second half of the scratch space is aligned too."""
    return -(-elements // 8) * 8


def _view(data: Buffer, dtype: str) -> torch.Tensor:
    return torch.frombuffer(data, dtype=DTYPES[dtype]) if data else torch.empty(0, dtype=DTYPES[dtype])


def _decoded(data: Buffer, stored: Encoding) -> torch.Tensor:
    """Returns the numbers that stored elements represent."""
    view = _view(data, stored.dtype)
    if stored.codec is None:
        return view
    numbers: torch.Tensor = stored.codec.decode(view)
    return numbers


def _largest(tensor: torch.Tensor) -> float:
    """The largest magnitude in a tensor; NaN where it holds one."""
    low, high = torch.aminmax(tensor)
    return max(-float(low), float(high))


def _overflow(rounded: torch.Tensor, exact: torch.Tensor) -> int:
    """How many values became infinite in rounding; infinities that the release itself has do not count."""
    if math.isfinite(_largest(rounded)):
        return 0
    return int(torch.isinf(rounded).sum()) - int(torch.isinf(exact).sum())


def _moments(x: torch.Tensor, y: torch.Tensor) -> Moments:
    return Moments(float(x.dot(y)), float(x.dot(x)), float(y.dot(y)))
