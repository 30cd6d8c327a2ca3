"""A file of a merged model in parts: what an object store can copy by itself, and what has to pass through us.

Limits are those of S3's multipart uploads: parts of 5 MiB to 5 GiB (the last may be smaller), at most 10,000 of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from app.core.plan import Copy, PlannedFile

MIN_PART = 5 * 2**20
MAX_PART = 5 * 2**30
MAX_PARTS = 10_000
# Large enough that a request costs little beside its bytes, small enough to hold several in memory.
MOVED_PART = 16 * 2**20
# Copies are made by the store; in pieces, so that several go on at once.
COPIED_PART = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes [start, stop) of a file; `offset` is where they lie in the release's file of `path`, or None to compute them."""

    start: int
    stop: int
    path: str
    offset: int | None

    @property
    def length(self) -> int:
        return self.stop - self.start


def plan_parts(file: PlannedFile, copies: bool = True) -> tuple[Part, ...]:
    """Cuts a file into parts, in order and without gaps.

    Args:
        file: from a merge plan.
        copies: False where the release does not lie in the store that the file goes to: then everything is moved.
    """
    moved, copied = _part_sizes(file.size)
    runs = _join_small(list(_runs(file, copies)))
    return tuple(part for run in runs for part in _split(run, moved if run.offset is None else copied))


def _part_sizes(size: int) -> tuple[int, int]:
    """Sizes of moved and of copied parts that keep a file of `size` bytes below the limit of parts."""
    least = -(-size // (MAX_PARTS // 2))
    return max(MOVED_PART, least), min(MAX_PART, max(COPIED_PART, least))


def _runs(file: PlannedFile, copies: bool) -> Iterator[Part]:
    """Neighbouring bytes of one kind; a copy that is too small to be a part is moved."""
    start = 0
    for segment, begin in zip(file.segments, file.starts, strict=True):
        stop = begin + segment.length
        if copies and isinstance(segment, Copy) and segment.origin == "base" and segment.length >= MIN_PART:
            if start < begin:
                yield Part(start, begin, file.path, None)
            yield Part(begin, stop, segment.path, segment.offset)
            start = stop
    if start < file.size or not file.size:
        yield Part(start, file.size, file.path, None)


def _join_small(runs: list[Part]) -> list[Part]:
    """Where a moved run is too small to be a part and another follows, it takes what it lacks from its neighbour."""
    joined: list[Part] = []
    for at, run in enumerate(runs):
        last = joined[-1] if joined else None
        if last is None or last.length >= MIN_PART:
            if last is not None and last.offset is None and run.offset is None:
                joined[-1] = Part(last.start, run.stop, last.path, None)
            else:
                joined.append(run)
            continue
        # `last` is too small: copies are never, so it is moved, and what follows is a copy or moved as well.
        lacking = MIN_PART - last.length
        is_end = at == len(runs) - 1
        if run.offset is None or (run.length - lacking < MIN_PART and not (is_end and run.length > lacking)):
            joined[-1] = Part(last.start, run.stop, last.path, None)
        else:
            cut = run.start + lacking
            joined[-1] = Part(last.start, cut, last.path, None)
            joined.append(Part(cut, run.stop, run.path, run.offset + lacking))
    return joined


def _split(run: Part, size: int) -> Iterator[Part]:
    """Equal pieces of at least `size` bytes (the run itself where it is smaller)."""
    count = max(1, run.length // size)
    bounds = [run.start + run.length * i // count for i in range(count + 1)]
    for start, stop in pairwise(bounds):
        yield Part(start, stop, run.path, None if run.offset is None else run.offset + start - run.start)
