"""Merge on read, by property: any range of any file, in any order, is what a materialised file holds there."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core import arithmetic
from app.core.adapter import WEIGHTS_FILE
from app.core.errors import OutputError
from app.core.materialise import write_model
from app.core.plan import Compute
from app.core.readahead import Windows
from app.core.recipe import BLOCK_ELEMENTS, MAX_ROW_ELEMENTS, Recipe
from app.core.source import DirectorySource, read_header
from app.core.stream import PIECE_BYTES, Merger
from tests.support.files import Tensor, factors, matrix, write_base, write_patch
from tests.support.merging import CountingSource, opened, read

ATTENTION = "model.layers.{}.self_attn.{}"
# More than one block, one wide row split by columns, one smaller than a block, one that ends in the middle of a block.
SHAPES = {"q_proj": (700, 1000), "k_proj": (2, MAX_ROW_ELEMENTS + 77), "v_proj": (9, 50), "o_proj": (301, 901)}


def weights(dtype: str) -> list[dict[str, Tensor]]:
    """Two shards: matrices in `dtype`, with a norm, an integer tensor, a scalar and an empty tensor between them."""
    shards = []
    for layer in range(2):
        shard = {f"{ATTENTION.format(layer, n)}.weight": matrix(s, dtype, layer + i) for i, (n, s) in enumerate(SHAPES.items())}
        shard[f"model.layers.{layer}.norm.weight"] = matrix((1000,), dtype, 7)
        shard[f"model.layers.{layer}.position_ids"] = ("I64", (3,), bytes(range(24)))
        shard[f"model.layers.{layer}.empty"] = (dtype, (0, 4), b"")
        shard[f"model.layers.{layer}.scalar"] = matrix((), dtype, 8)
        shard[f"model.layers.{layer}.untouched.weight"] = matrix((333, 1001), dtype, 9)
        # An order in which touched and untouched tensors alternate.
        shards.append(dict(sorted(shard.items(), key=lambda item: (len(item[0]) % 5, item[0]))))
    return shards


class Case:
    """An open merger and the bytes of every file that it materialised."""

    def __init__(self, merger: Merger, base: Path, patch: Path, directory: Path) -> None:
        self.merger, self.base, self.patch = merger, base, patch
        self.files = {path: (directory / path).read_bytes() for path in merger.plan.files}


@pytest.fixture(scope="module", params=["single", "sharded", "float32 from BF16", "bfloat16 from F32, sharded"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    root, kind = tmp_path_factory.mktemp("ranges"), str(request.param)
    shards = weights("F32" if "from F32" in kind else "BF16")
    base = write_base(root / "base", shards if "sharded" in kind else shards[0])
    (base / "notes").mkdir()
    (base / "notes/README.md").write_bytes(b"carried as it is\r\n" * 99)
    layers = 2 if "sharded" in kind else 1
    pairs = {ATTENTION.format(i, n): factors(s, 3, "F32", 30 + i) for n, s in SHAPES.items() for i in range(layers)}
    patch = write_patch(root / "patch", pairs, lora_alpha=5, target_modules=list(SHAPES))
    recipe = Recipe(dtype=kind.split(maxsplit=1)[0] if "from" in kind else None)
    with opened(base, patch, recipe) as merger:
        write_model(merger, root / "out")
        yield Case(merger, base, patch, root / "out")


@given(st.data())
@settings(max_examples=60)
def test_any_range_is_a_slice_of_the_file(case: Case, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(case.files)))
    start, stop = data.draw(ranges(case, path))
    assert read(case.merger, path, start, stop) == case.files[path][start:stop]


@given(st.data())
@settings(max_examples=15)
def test_ranges_assembled_in_any_order_are_the_file(case: Case, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(p for p in case.files if p.endswith(".safetensors"))))
    size = len(case.files[path])
    cuts = sorted(data.draw(st.sets(positions(case, path), max_size=8)) | {0, size})
    parts = data.draw(st.permutations(list(pairwise(cuts))))
    whole = bytearray(size)
    for start, stop in parts:
        whole[start:stop] = read(case.merger, path, start, stop)
    assert bytes(whole) == case.files[path]


def test_pieces_cover_a_file_without_gaps(case: Case) -> None:
    for path, content in case.files.items():
        position = 0
        for piece in case.merger.pieces(path):
            assert piece.offset == position
            assert 0 < piece.length <= max(PIECE_BYTES, BLOCK_ELEMENTS * 4)
            position += piece.length
        assert position == len(content) == case.merger.plan.files[path].size


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 10**12), (10**12, 10**12)])
def test_ranges_outside_a_file_are_refused(case: Case, start: int, stop: int) -> None:
    with pytest.raises(OutputError) as refusal:
        case.merger.pieces("config.json", start, stop)
    assert refusal.value.code == "output.range"


@pytest.mark.parametrize("path", ["", "..", "../base/config.json", "/etc/passwd", "model", "notes", "Config.json"])
def test_files_that_are_not_planned_are_refused(case: Case, path: str) -> None:
    with pytest.raises(OutputError) as refusal:
        case.merger.pieces(path)
    assert refusal.value.code == "output.unknown_file"


def positions(case: Case, path: str) -> st.SearchStrategy[int]:
    """Places in a file, those beside the borders of segments and blocks among them."""
    file = case.merger.plan.files[path]
    borders = {0, file.size, *file.starts}
    for segment, start in zip(file.segments, file.starts, strict=True):
        if isinstance(segment, Compute):
            rows, columns = segment.matrix
            width = segment.length // (rows * columns) if rows * columns else 1
            step = BLOCK_ELEMENTS if columns > MAX_ROW_ELEMENTS else max(1, BLOCK_ELEMENTS // max(1, columns)) * columns
            borders |= {start + i * width for i in range(0, rows * columns, step or 1)}
    near = [p + d for p in borders for d in (-1, 0, 1) if 0 <= p + d <= file.size]
    return st.sampled_from(sorted(set(near))) | st.integers(0, file.size)


def ranges(case: Case, path: str) -> st.SearchStrategy[tuple[int, int]]:
    place = positions(case, path)
    return st.tuples(place, place).map(lambda pair: (min(pair), max(pair)))


@given(st.data())
@settings(max_examples=40)
def test_a_window_answers_every_read_of_a_range(case: Case, data: st.DataObject) -> None:
    """What a range is said to reach of the base is read once and nothing else is; the bytes are the same."""
    path = data.draw(st.sampled_from(sorted(case.files)))
    start, stop = data.draw(ranges(case, path))
    with CountingSource(case.base) as base, DirectorySource(case.patch) as patch, ExitStack() as held:
        windows = Windows(base)
        data_start = read_header(patch, WEIGHTS_FILE).data_start
        merger = Merger(case.merger.plan, {"base": windows, "patch": patch}, WEIGHTS_FILE, data_start, arithmetic.load())
        reach = merger.reach(path, start, stop)
        for file, (first, last) in reach.items():
            held.enter_context(windows.hold(file, first, last))
        found = bytearray(stop - start)
        for piece in merger.pieces(path, start, stop):
            piece.fill(memoryview(found)[piece.offset - start :][: piece.length])
    assert found == case.files[path][start:stop]
    assert base.reads == [(file, first, last - first) for file, (first, last) in reach.items()]
