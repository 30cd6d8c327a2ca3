"""Merge on read: any byte range of any file of a merged model, computed while it is handed out.

Every block lies on a grid fixed by the recipe and is always computed whole, so the bytes do not depend on the range that
was asked for. Memory is bounded by the number of pieces under way, whatever the size of the model.
"""

import bisect
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from itertools import pairwise

from app.core.arithmetic import Arithmetic, Block, LoadedDelta
from app.core.delta import Delta
from app.core.errors import OutputError, PortError
from app.core.plan import Compute, Copy, Literal, MergePlan, PlannedFile, Segment
from app.core.recipe import BLOCK_ELEMENTS, MAX_ROW_ELEMENTS
from app.core.safetensors_header import DTYPE_BYTES, TensorInfo
from app.core.source import Source, read_range

PIECE_BYTES = 2 * 2**20
FACTOR_CACHE_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of the output that is produced in one go: `length` bytes at `offset` of the file; `fill` writes them."""

    offset: int
    length: int
    fill: Callable[[memoryview], None]

    def produce(self, scratch: memoryview | None = None) -> memoryview:
        """The bytes, in a buffer of their own, or in `scratch` where it is large enough."""
        fits = scratch is not None and len(scratch) >= self.length
        buffer = scratch[: self.length] if scratch is not None and fits else memoryview(bytearray(self.length))
        self.fill(buffer)
        return buffer


class Merger:
    """Produces the bytes of a merged model.

    Args:
        plan: what comes from where.
        sources: "base" and "patch".
        weights_path: the file of the patch that holds the factors, and `data_start` its data section's offset in bytes.
        arithmetic: see `app.core.arithmetic.load`.
        block_elements: size of the grid's blocks; anything but the default is for the reproducibility benchmark.
    """

    def __init__(
        self,
        plan: MergePlan,
        sources: Mapping[str, Source],
        weights_path: str,
        data_start: int,
        arithmetic: Arithmetic,
        block_elements: int = BLOCK_ELEMENTS,
    ) -> None:
        self.plan = plan
        self._sources = sources
        self._factors = _FactorCache(sources["patch"], weights_path, data_start, arithmetic)
        self._arithmetic = arithmetic
        self._block_elements = block_elements
        self._local = threading.local()

    def pieces(self, path: str, start: int = 0, stop: int | None = None) -> Iterator[Piece]:
        """The pieces that make up bytes [start, stop) of a file, in order; each can be produced by any thread.

        Raises:
            OutputError: output.unknown_file, output.range.
        """
        file = self.plan.file(path)
        stop = file.size if stop is None else stop
        if not 0 <= start <= stop <= file.size:
            raise OutputError("output.range", path=path, start=start, stop=stop, size=file.size)
        return _joined(self._parts(file, start, stop))

    def stream(
        self, path: str, start: int = 0, stop: int | None = None, *, pool: Executor, ahead: int = 4
    ) -> Generator[memoryview, None, None]:
        """Bytes [start, stop) of a file in order, at most `ahead` pieces computed in advance."""
        return in_order(pool, (piece.produce for piece in self.pieces(path, start, stop)), ahead)

    def reach(self, path: str, start: int, stop: int) -> dict[str, tuple[int, int]]:
        """Which bytes of the base are read for bytes [start, stop) of a file: by the base's files, first to last."""
        reached: dict[str, tuple[int, int]] = {}
        for segment, at, low, high in _overlapping(self.plan.file(path), start, stop):
            if isinstance(segment, Literal) or (isinstance(segment, Copy) and segment.origin != "base"):
                continue
            begin, end = self._reads(segment, low - at, high - at)
            first, last = reached.get(segment.path, (begin, end))
            reached[segment.path] = min(first, begin), max(last, end)
        return reached

    def _reads(self, segment: Copy | Compute, low: int, high: int) -> tuple[int, int]:
        """The same for bytes [low, high) of a segment: of what is copied just those, of what is computed whole blocks."""
        if isinstance(segment, Copy):
            return segment.offset + low, segment.offset + high
        width = DTYPE_BYTES[segment.dtype]
        first, last = (
            self._place(segment, next(grid(*segment.matrix, self._block_elements, byte // width))) for byte in (low, high - 1)
        )
        return first[0], sum(last)

    def _parts(self, file: PlannedFile, start: int, stop: int) -> Iterator[Piece]:
        for segment, begin, low, high in _overlapping(file, start, stop):
            yield from self._segment_parts(segment, begin, low, high)

    def _segment_parts(self, segment: Segment, begin: int, low: int, high: int) -> Iterator[Piece]:
        if isinstance(segment, Compute):
            yield from self._block_parts(segment, begin, low, high)
            return
        for part in range(low, high, PIECE_BYTES):
            length = min(PIECE_BYTES, high - part)
            yield Piece(part, length, self._copier(segment, part - begin, length))

    def _copier(self, segment: Copy | Literal, skip: int, length: int) -> Callable[[memoryview], None]:
        def fill(out: memoryview) -> None:
            if isinstance(segment, Literal):
                out[:] = segment.content[skip : skip + length]
            else:
                self._sources[segment.origin].read_into(segment.path, segment.offset + skip, out)

        return fill

    def _block_parts(self, segment: Compute, begin: int, low: int, high: int) -> Iterator[Piece]:
        rows, columns = segment.matrix
        width = DTYPE_BYTES[segment.dtype]
        for block in grid(rows, columns, self._block_elements, (low - begin) // width):
            offset = begin + (block.row * columns + block.column) * width
            if offset >= high:
                return
            end = offset + block.rows * block.columns * width
            if end > low:
                cut = slice(max(low, offset) - offset, min(high, end) - offset)
                yield Piece(max(low, offset), cut.stop - cut.start, self._computer(segment, block, cut))

    def _computer(self, segment: Compute, block: Block, cut: slice) -> Callable[[memoryview], None]:
        def fill(out: memoryview) -> None:
            whole = len(out) == block.rows * block.columns * DTYPE_BYTES[segment.dtype]
            target = out if whole else memoryview(bytearray(block.rows * block.columns * DTYPE_BYTES[segment.dtype]))
            self._compute(segment, block, target)
            if not whole:
                out[:] = target[cut]

        return fill

    def _compute(self, segment: Compute, block: Block, out: memoryview) -> None:
        weight = self._read_block_into_scratch(segment, block)
        delta = self._factors.get(segment.delta) if segment.delta else None
        overflow = self._arithmetic.merge_block(weight, segment.stored, delta, block, out, segment.target)
        if overflow:
            raise PortError("port.overflow", tensor=segment.tensor.name, dtype=segment.dtype, count=overflow)

    def read_block(self, segment: Compute, block: Block) -> bytearray:
        """The stored bytes of a block of the release."""
        offset, length = self._place(segment, block)
        return read_range(self._sources["base"], segment.path, offset, length)

    def _read_block_into_scratch(self, segment: Compute, block: Block) -> memoryview:
        """The same, in a buffer that this thread uses again: new memory for every block costs as much as reading it."""
        offset, length = self._place(segment, block)
        held: memoryview | None = getattr(self._local, "weight", None)
        if held is None or len(held) < length:
            held = self._local.weight = memoryview(bytearray(length))
        self._sources["base"].read_into(segment.path, offset, held[:length])
        return held[:length]

    @staticmethod
    def _place(segment: Compute, block: Block) -> tuple[int, int]:
        """Offset and length in bytes of a block's weights in the release's file."""
        width = DTYPE_BYTES[segment.tensor.dtype]
        return segment.offset + (block.row * segment.matrix[1] + block.column) * width, block.rows * block.columns * width

    def forget(self) -> None:
        """Drops the factors that are held; whoever needs them reads them again."""
        self._factors.clear()

    def loaded_delta(self, delta: Delta) -> LoadedDelta:
        """The factors of a delta, ready for `Arithmetic`."""
        return self._factors.get(delta)


def _overlapping(file: PlannedFile, start: int, stop: int) -> Iterator[tuple[Segment, int, int, int]]:
    """The segments that hold bytes [start, stop) of a file: each with its offset in the file, and what of the range it holds."""
    index = max(0, bisect.bisect_right(file.starts, start) - 1)
    for segment, begin in zip(file.segments[index:], file.starts[index:], strict=True):
        low, high = max(start, begin), min(stop, begin + segment.length)
        if begin >= stop:
            return
        if low < high:
            yield segment, begin, low, high


def grid(rows: int, columns: int, block_elements: int = BLOCK_ELEMENTS, element: int = 0) -> Iterator[Block]:
    """The blocks of a matrix in storage order, from the one that holds `element` on.

    Whole rows, as many as fit into `block_elements`; a row of more than `MAX_ROW_ELEMENTS` is split by columns.
    """
    if columns > MAX_ROW_ELEMENTS:
        first_row = element // columns
        for row in range(first_row, rows):
            skip = (element - row * columns) // block_elements * block_elements if row == first_row else 0
            for column in range(skip, columns, block_elements):
                yield Block(row, 1, column, min(block_elements, columns - column))
        return
    if not columns:
        return
    step = max(1, block_elements // columns)
    for row in range(element // columns // step * step, rows, step):
        yield Block(row, min(step, rows - row), 0, columns)


def in_order(pool: Executor, calls: Iterable[Callable[[], memoryview]], ahead: int) -> Generator[memoryview, None, None]:
    """Runs calls on a pool and yields their results in order, at most `ahead` under way or waiting.

    When it ends early it waits for what is under way: a piece that went on would open files that its caller has closed.
    """
    pending: deque[Future[memoryview]] = deque()
    try:
        for call in calls:
            pending.append(pool.submit(call))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        wait([future for future in pending if not future.cancel()])


def _joined(parts: Iterable[Piece]) -> Iterator[Piece]:
    """Joins neighbours into pieces of about PIECE_BYTES: fewer hand-overs, larger writes."""
    group: list[Piece] = []
    size = 0
    for part in parts:
        if group and size + part.length > PIECE_BYTES:
            yield _join(group, size)
            group, size = [], 0
        group.append(part)
        size += part.length
    if group:
        yield _join(group, size)


def _join(group: list[Piece], size: int) -> Piece:
    if len(group) == 1:
        return group[0]
    first = group[0].offset
    assert all(a.offset + a.length == b.offset for a, b in pairwise(group))

    def fill(out: memoryview) -> None:
        for part in group:
            part.fill(out[part.offset - first : part.offset - first + part.length])

    return Piece(first, size, fill)


class _FactorCache:
    """The factors of the tensors under way, in float64; read from the patch on demand, bounded in bytes."""

    def __init__(self, source: Source, path: str, data_start: int, arithmetic: Arithmetic) -> None:
        self._source, self._path, self._data_start, self._arithmetic = source, path, data_start, arithmetic
        self._lock = threading.Lock()
        self._held: OrderedDict[str, LoadedDelta] = OrderedDict()

    def get(self, delta: Delta) -> LoadedDelta:
        with self._lock:
            if delta.tensor not in self._held:
                self._held[delta.tensor] = delta.load(self._read, self._arithmetic)
                self._evict()
            self._held.move_to_end(delta.tensor)
            return self._held[delta.tensor]

    def clear(self) -> None:
        with self._lock:
            self._held.clear()

    def _read(self, tensor: TensorInfo) -> bytearray:
        return read_range(self._source, self._path, self._data_start + tensor.begin, tensor.nbytes)

    def _evict(self) -> None:
        while len(self._held) > 1 and sum(delta.nbytes for delta in self._held.values()) > FACTOR_CACHE_BYTES:
            self._held.popitem(last=False)
