"""A kind of patch, a kind of base and a strategy are one registration: resolved, planned, and merged by ranges as a whole."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from app.core import arithmetic
from app.core.checkpoint import read_checkpoint
from app.core.errors import CoreError
from app.core.offline import inspect, merge, open_directory, open_merger
from app.core.patch import read_patch, run_prepass
from app.core.recipe import Recipe, fingerprint
from tests.support.files import Tensor, decode, factors, matrix, write_base, write_patch
from tests.support.toy_kinds import eight_bits, register, write_diagonal

MODULE = "model.layers.0.self_attn.q_proj"
WEIGHT = f"{MODULE}.weight"
# Two blocks of the grid, and not a square.
SHAPE = (600, 700)
SCALE = 2.0**-6
QUANTISED = {"quant_method": "toy_8bit", "scale": SCALE}
FILE = "model.safetensors"


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def base(path: Path, weight: Tensor | None = None, **config: object) -> Path:
    return write_base(path, {"model.norm.weight": matrix((5,), "BF16", 3), WEIGHT: weight or matrix(SHAPE, "F32", 1)}, **config)


def lora(path: Path, dtype: str = "F32") -> Path:
    return write_patch(path, {MODULE: factors(SHAPE, 4, dtype, 5)})


def data(path: Path) -> bytes:
    content = (path / FILE).read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") + 10 :]  # ten bytes are the norm


def values(weight: Tensor) -> np.ndarray:
    return decode(weight[2], weight[0]).reshape(weight[1])


def by_ranges(base_dir: Path, patch_dir: Path, recipe: Recipe) -> bytes:
    """The merged file, read in ranges that begin and end anywhere."""
    with ThreadPoolExecutor(2) as pool, open_merger(base_dir, patch_dir, recipe) as (merger, _, _):
        size = merger.plan.file(FILE).size
        cuts = [0, 1, 333, size // 3, size // 2, size - 7, size]
        return b"".join(bytes(piece) for start, stop in pairwise(cuts) for piece in merger.stream(FILE, start, stop, pool=pool))


def refusal(base_dir: Path, patch_dir: Path, recipe: Recipe | None = None) -> CoreError:
    with pytest.raises(CoreError) as refused, open_merger(base_dir, patch_dir, recipe or Recipe()):
        pass
    return refused.value


@pytest.mark.usefixtures("kinds")
def test_patch_of_a_new_kind_is_merged(tmp_path: Path) -> None:
    base_dir, patch_dir = base(tmp_path / "base"), write_diagonal(tmp_path / "patch", MODULE, 600)
    merge(base_dir, patch_dir, tmp_path / "out")
    expected = values(matrix(SHAPE, "F32", 1))
    expected[np.arange(600), np.arange(600)] += 3 * values(matrix((600,), "F32", 7))
    assert data(tmp_path / "out") == expected.astype("<f4").tobytes()
    assert by_ranges(base_dir, patch_dir, Recipe()) == (tmp_path / "out" / FILE).read_bytes()
    assert inspect(base_dir, base_dir, patch_dir).portable


@pytest.mark.usefixtures("kinds")
def test_patch_that_needs_a_prepass_uses_its_vectors(tmp_path: Path) -> None:
    base_dir, patch_dir = base(tmp_path / "base"), write_diagonal(tmp_path / "patch", MODULE, 600, normed=True)
    merge(base_dir, patch_dir, tmp_path / "out")
    weight = values(matrix(SHAPE, "F32", 1))
    merged = np.frombuffer(data(tmp_path / "out"), "<f4").reshape(SHAPE)
    expected = 3 * values(matrix((600,), "F32", 7)) * np.linalg.norm(weight, axis=1)
    assert np.allclose((merged - weight).diagonal(), expected, rtol=1e-4)
    assert by_ranges(base_dir, patch_dir, Recipe()) == (tmp_path / "out" / FILE).read_bytes()


@pytest.mark.usefixtures("kinds")
def test_vectors_of_a_prepass_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    base_dir, patch_dir = base(tmp_path / "base"), write_diagonal(tmp_path / "patch", MODULE, 600, normed=True)
    with open_directory(base_dir) as opened, open_directory(patch_dir) as other:
        patch, checkpoint = read_patch(other.source, other.files), read_checkpoint(opened.source, opened.files)
        vectors = run_prepass(patch, other.source, checkpoint, opened.source, arithmetic.load())
    assert vectors
    assert len(vectors[WEIGHT]) == 600 * 8
    changed = {WEIGHT: vectors[WEIGHT][::-1]}
    named = {fingerprint(Recipe(), "base", "patch", given) for given in (None, vectors, changed)}
    assert len(named) == 3


@pytest.mark.usefixtures("kinds")
def test_patch_that_needs_a_prepass_is_refused_without_one(tmp_path: Path) -> None:
    base_dir, patch_dir = base(tmp_path / "base"), write_diagonal(tmp_path / "patch", MODULE, 600, normed=True)
    with open_directory(base_dir) as opened, open_directory(patch_dir) as other:
        checkpoint = read_checkpoint(opened.source, opened.files)
        with pytest.raises(CoreError) as refused:
            read_patch(other.source, other.files).resolve(checkpoint)
    assert refused.value.code == "adapter.prepass"


@pytest.mark.usefixtures("kinds")
def test_base_of_a_new_kind_is_read_and_written(tmp_path: Path) -> None:
    weight = eight_bits(SHAPE, 1)
    base_dir, patch_dir = base(tmp_path / "base", weight, quantization_config=QUANTISED), lora(tmp_path / "patch")
    merge(base_dir, patch_dir, tmp_path / "out")
    a, b = (values(factor) for factor in factors(SHAPE, 4, "F32", 5))
    stored = np.frombuffer(weight[2], "i1").reshape(SHAPE)
    expected = np.round((stored * SCALE + b @ (a * 2)) / SCALE)
    assert (expected != stored).any()
    assert data(tmp_path / "out") == expected.astype("i1").tobytes()
    assert by_ranges(base_dir, patch_dir, Recipe()) == (tmp_path / "out" / FILE).read_bytes()


@pytest.mark.usefixtures("kinds")
def test_base_of_a_new_kind_is_measured(tmp_path: Path) -> None:
    """Lineage and fidelity are figures of the numbers, not of the elements that stand for them."""
    patch_dir = lora(tmp_path / "patch")
    old = base(tmp_path / "old", eight_bits(SHAPE, 1), quantization_config=QUANTISED)
    new = base(tmp_path / "new", matrix(SHAPE, "F32", 1, 2.0**-15))
    found = inspect(old, new, patch_dir)
    assert {finding.code: finding.severity for finding in found.findings}["lineage.measured"] == "info"
    onto_old = inspect(new, old, patch_dir)
    assert onto_old.fidelity
    assert 0 < onto_old.fidelity.overall < 1.5


@pytest.mark.usefixtures("kinds")
def test_values_that_do_not_fit_a_base_of_a_new_kind_are_refused(tmp_path: Path) -> None:
    base_dir = base(tmp_path / "base", ("I8", SHAPE, b"\x7f" * (600 * 700)), quantization_config=QUANTISED)
    with pytest.raises(CoreError) as refused:
        merge(base_dir, lora(tmp_path / "patch"), tmp_path / "out")
    assert refused.value.code == "port.overflow"


@pytest.mark.usefixtures("kinds")
def test_new_strategy_changes_the_deltas_of_every_kind(tmp_path: Path) -> None:
    base_dir = base(tmp_path / "base")
    for name, patch_dir in (
        ("lora", lora(tmp_path / "lora")), ("diagonal", write_diagonal(tmp_path / "diagonal", MODULE, 600)),
    ):  # fmt: skip
        added, half = tmp_path / f"{name}-add", tmp_path / f"{name}-halve"
        merge(base_dir, patch_dir, added)
        merge(base_dir, patch_dir, half, Recipe("halve"))
        weight = values(matrix(SHAPE, "F32", 1))
        whole, halved = (np.frombuffer(data(out), "<f4").reshape(SHAPE) - weight for out in (added, half))
        assert np.allclose(halved, whole / 2, atol=1e-6)
        assert np.abs(halved).max() > 1e-3
        assert by_ranges(base_dir, patch_dir, Recipe("halve")) == (half / FILE).read_bytes()


@pytest.mark.usefixtures("kinds")
def test_new_strategy_has_a_fingerprint_of_its_own() -> None:
    assert fingerprint(Recipe("halve"), "base", "patch") != fingerprint(Recipe(), "base", "patch")


@pytest.mark.usefixtures("kinds")
def test_patch_base_and_strategy_can_all_be_new(tmp_path: Path) -> None:
    base_dir = base(tmp_path / "base", ("I8", SHAPE, bytes(600 * 700)), quantization_config=QUANTISED)
    patch_dir = write_diagonal(tmp_path / "patch", MODULE, 600, gain=2.0**6)
    merge(base_dir, patch_dir, tmp_path / "out", Recipe("halve"))
    merged = np.frombuffer(data(tmp_path / "out"), "i1").reshape(SHAPE)
    assert (merged.diagonal() == np.round(values(matrix((600,), "F32", 7)) * 2.0**5 / SCALE)).all()
    assert np.count_nonzero(merged) == np.count_nonzero(merged.diagonal()) > 0


def test_unregistered_patch_kind_is_refused(tmp_path: Path) -> None:
    error = refusal(base(tmp_path / "base"), write_diagonal(tmp_path / "patch", MODULE, 600))
    assert (error.code, error.data) == ("adapter.peft_type", {"peft_type": "TOY_DIAGONAL", "supported": "LORA"})


def test_unregistered_base_kind_is_refused(tmp_path: Path) -> None:
    error = refusal(base(tmp_path / "base", eight_bits(SHAPE, 1), quantization_config=QUANTISED), lora(tmp_path / "patch"))
    assert error.code == "checkpoint.quantized"
    assert error.data == {"method": "toy_8bit", "supported": "F32, F16 or BF16 weights"}


def test_unregistered_strategy_is_refused() -> None:
    with pytest.raises(CoreError, match="strategy is 'halve', not one of add") as refused:
        Recipe("halve")
    assert refused.value.code == "recipe.invalid"
