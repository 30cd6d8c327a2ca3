"""Parts of a multipart upload: without gaps, within the limits of S3, and as much as possible copied by the store itself."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.multipart_plan import COPIED_PART, MAX_PART, MAX_PARTS, MIN_PART, MOVED_PART, Part, plan_parts
from app.core.plan import Compute, Copy, Literal, PlannedFile, Segment
from app.core.safetensors_header import TensorInfo

MIB = 2**20


def compute(length: int) -> Compute:
    """A computed tensor of `length` bytes of BF16."""
    return Compute("model.safetensors", 0, TensorInfo("w", "BF16", (length // 2,), 0, length), "BF16", None)


def copy(length: int, offset: int = 0, origin: str = "base") -> Copy:
    return Copy(origin, "model.safetensors", offset, length)


def planned(*segments: Segment) -> PlannedFile:
    return PlannedFile("model.safetensors", tuple(s for s in segments if s.length))


SEGMENTS = st.one_of(
    st.integers(1, 40 * MIB).map(lambda n: compute(2 * n)),
    st.tuples(st.integers(1, 40 * MIB), st.integers(0, 2**40)).map(lambda pair: copy(*pair)),
    st.integers(1, 4000).map(lambda n: Literal(bytes(n))),
    st.integers(1, 20 * MIB).map(lambda n: copy(n, 0, "patch")),
)


@given(st.lists(SEGMENTS, max_size=12))
def test_parts_cover_the_file_within_the_limits(segments: list[Segment]) -> None:
    """In order, no gap, no overlap; every part but the last is large enough; copies come from where the plan has them."""
    file = planned(*segments)
    parts = plan_parts(file)
    assert parts[0].start == 0
    assert parts[-1].stop == file.size
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert all(MIN_PART <= part.length <= MAX_PART for part in parts[:-1])
    assert len(parts) <= MAX_PARTS
    for part in parts:
        if part.offset is not None:
            index = max(i for i, start in enumerate(file.starts) if start <= part.start)
            segment = file.segments[index]
            assert isinstance(segment, Copy)
            assert segment.origin == "base"
            assert part.stop <= file.starts[index] + segment.length
            assert part.offset == segment.offset + part.start - file.starts[index]


@given(st.lists(SEGMENTS, max_size=12))
def test_little_is_moved_that_could_be_copied(segments: list[Segment]) -> None:
    """A run of computed bytes takes at most what it lacks to be a part, and what that leaves too small."""
    file = planned(*segments)
    copyable = sum(s.length for s in file.segments if isinstance(s, Copy) and s.origin == "base" and s.length >= MIN_PART)
    copied = sum(p.length for p in plan_parts(file) if p.offset is not None)
    holes = 1 + sum(not (isinstance(s, Copy) and s.origin == "base" and s.length >= MIN_PART) for s in file.segments)
    assert copied >= copyable - holes * 2 * MIN_PART


def test_a_small_hole_between_two_copies() -> None:
    """The hole borrows from the copy that follows it."""
    parts = plan_parts(planned(copy(100 * MIB), compute(MIB), copy(100 * MIB, 200 * MIB)))
    assert parts == (
        Part(0, 100 * MIB, "model.safetensors", 0),
        Part(100 * MIB, 105 * MIB, "model.safetensors", None),
        Part(105 * MIB, 201 * MIB, "model.safetensors", 204 * MIB),
    )


def test_a_small_end_may_stay_small() -> None:
    """The last part has no lower limit."""
    assert [p.length for p in plan_parts(planned(copy(100 * MIB), compute(MIB)))] == [100 * MIB, MIB]
    assert [p.length for p in plan_parts(planned(compute(MIB), copy(5 * MIB)))] == [5 * MIB, MIB]


def test_another_store_copies_nothing() -> None:
    """Where the release lies elsewhere, every byte passes through us."""
    parts = plan_parts(planned(copy(100 * MIB), compute(MIB)), copies=False)
    assert all(part.offset is None for part in parts)
    assert parts[-1].stop == 101 * MIB


@pytest.mark.parametrize("size", [0, 1, MIN_PART - 1])
def test_small_files_are_one_part(size: int) -> None:
    """Also an empty one."""
    assert plan_parts(planned(copy(size))) == (Part(0, size, "model.safetensors", None),)


def test_sizes_of_parts() -> None:
    """A large run is cut evenly; a huge file gets larger parts, not more than 10,000."""
    assert {p.length for p in plan_parts(planned(compute(160 * MIB)))} == {MOVED_PART}
    assert {p.length for p in plan_parts(planned(copy(10 * COPIED_PART)))} == {COPIED_PART}
    huge = plan_parts(planned(compute(4 * 2**40)))
    assert len(huge) <= MAX_PARTS
    assert max(p.length for p in huge) <= MAX_PART
