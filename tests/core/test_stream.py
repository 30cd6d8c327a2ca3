"""What a merger reads: only what the range needs, and each factor once while it is in use."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.core import arithmetic, stream
from app.core.adapter import WEIGHTS_FILE
from app.core.errors import PortError
from app.core.recipe import Recipe
from app.core.stream import Merger, in_order
from tests.support.files import encode, factors, integers, matrix, write_base, write_patch
from tests.support.merging import CountingSource, opened, read

WEIGHTS = "model.safetensors"
MODULES = [f"model.layers.{i}.self_attn.q_proj" for i in range(4)]
SHAPE = (1000, 1024)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Four matrices of 2 MB, four blocks each, and factors of 32 KB for each."""
    root = tmp_path_factory.mktemp("models")
    base = write_base(root / "base", {f"{m}.weight": matrix(SHAPE, "BF16", i) for i, m in enumerate(MODULES)})
    return base, write_patch(root / "patch", {m: factors(SHAPE, 4, "F32", i) for i, m in enumerate(MODULES)})


@pytest.fixture
def counted(models: tuple[Path, Path]) -> Iterator[tuple[Merger, CountingSource, CountingSource]]:
    """A merger, and the sources of base and patch that it reads from."""
    with ExitStack() as stack:
        planned = stack.enter_context(opened(*models))
        base, patch = (stack.enter_context(CountingSource(m)) for m in models)
        start = int.from_bytes((models[1] / WEIGHTS_FILE).read_bytes()[:8], "little") + 8
        yield Merger(planned.plan, {"base": base, "patch": patch}, WEIGHTS_FILE, start, arithmetic.load()), base, patch


def test_a_whole_file_reads_everything_once(counted: tuple[Merger, CountingSource, CountingSource]) -> None:
    merger, base, patch = counted
    content = read(merger, WEIGHTS)
    assert base.bytes_read[WEIGHTS] == len(content)
    assert len(patch.reads) == len(set(patch.reads)) == 2 * len(MODULES)


def test_a_small_range_reads_little(counted: tuple[Merger, CountingSource, CountingSource]) -> None:
    """One byte costs one block of the base and the factors of one tensor; a piece of the header no factor at all."""
    merger, base, patch = counted
    read(merger, WEIGHTS, 0, 10)
    assert (base.bytes_read[WEIGHTS], patch.reads) == (10, [])
    base.bytes_read.clear()
    read(merger, WEIGHTS, 3_000_000, 3_000_001)
    assert base.bytes_read[WEIGHTS] == 2**18 * 2
    assert len(patch.reads) == 2


def test_factors_that_do_not_fit_into_the_cache_are_read_again(
    models: tuple[Path, Path], counted: tuple[Merger, CountingSource, CountingSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded memory, the same bytes."""
    with opened(*models) as other:
        whole = read(other, WEIGHTS)
    merger, _, patch = counted
    monkeypatch.setattr(stream, "FACTOR_CACHE_BYTES", 1)
    for start in (4_000_000, 100_000, 4_000_000):
        assert read(merger, WEIGHTS, start, start + 100) == whole[start : start + 100]
    assert len(patch.reads) == 6


def test_an_empty_range_computes_nothing(counted: tuple[Merger, CountingSource, CountingSource]) -> None:
    merger, base, _ = counted
    assert read(merger, WEIGHTS, 500_000, 500_000) == b""
    assert base.reads == []


def test_results_come_in_order_and_no_more_than_asked_for_in_advance() -> None:
    started: list[int] = []

    def call(number: int) -> memoryview:
        started.append(number)
        return memoryview(bytes([number]))

    with ThreadPoolExecutor(3) as pool:
        results = in_order(pool, ((lambda n=n: call(n)) for n in range(100)), ahead=4)
        assert bytes(next(results)) == b"\0"
        assert len(started) <= 4
        assert b"".join(results) == bytes(range(1, 100))


def test_a_refusal_reaches_the_reader(tmp_path: Path) -> None:
    """The values before it are handed out; the range that holds it raises, again and again."""
    name = MODULES[0]
    weight = encode(integers(48, 1) * 2.0**-20, "F32")
    tensors = {f"{name}.weight": ("F32", (6, 8), weight), "model.norm.weight": ("F32", (1,), encode(integers(1, 1) * 1e9, "F32"))}
    base, patch = write_base(tmp_path / "base", tensors), write_patch(tmp_path / "patch", {name: factors((6, 8), 2, "F32", 1)})
    with opened(base, patch, Recipe(dtype="float16")) as merger:
        size = merger.plan.files[WEIGHTS].size
        assert len(read(merger, WEIGHTS, 0, size - 2)) == size - 2
        for _ in range(2):
            with pytest.raises(PortError) as refusal:
                read(merger, WEIGHTS, size - 2)
            assert refusal.value.code == "port.overflow"
