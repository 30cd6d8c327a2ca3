"""Data-free signals: merge fidelity and lineage, against direct computations, and within what may be read."""

import json
import os
from pathlib import Path

import pytest
import torch

from app.core import arithmetic
from app.core.checkpoint import Checkpoint, read_checkpoint
from app.core.diagnostics import MAX_SAMPLE_BYTES, Lineage, judge_lineage, measure_fidelity, measure_lineage
from app.core.errors import CoreError
from app.core.findings import Finding
from app.core.offline import inspect, merge, open_directory
from app.core.recipe import Recipe
from tests.support.files import encode, factors, integers, matrix, write_base, write_patch
from tests.support.merging import CountingSource, opened
from tests.support.models import DTYPES, Shelf, load_model_tensors, load_tensors

ATTENTION = "model.layers.{}.self_attn.{}"


def lineage(old: Path, new: Path) -> Lineage:
    with open_directory(old) as before, open_directory(new) as after:
        x, y = read_checkpoint(before.source, before.files), read_checkpoint(after.source, after.files)
        return measure_lineage(x, before.source, y, after.source, arithmetic.load())


def findings(old: Path, new: Path, patch: Path, recipe: Recipe | None = None) -> dict[str, Finding]:
    return {f.code: f for f in inspect(old, new, patch, recipe).findings}


@pytest.mark.parametrize(("dtype", "out"), [("bfloat16", None), ("float16", None), ("float32", None), ("float32", "bfloat16")])
@pytest.mark.parametrize("strength", [0.02, 2e-5])
def test_fidelity_is_the_share_that_survives_rounding(dtype: str, out: str | None, strength: float, shelf: Shelf) -> None:
    """<Q(W+D) - W, D> / ||D||^2, computed over whole tensors by torch."""
    base = shelf.base("llama", dtype=dtype)
    patch = shelf.patch(base, r=4, lora_alpha=8, strength=strength)
    weights, pairs = load_model_tensors(base), load_tensors(patch / "adapter_model.safetensors")[0]
    kept, size, shares = 0.0, 0.0, {}
    for name, weight in weights.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in pairs:
            delta = 2.0 * pairs[f"{module}.lora_B.weight"].double() @ pairs[f"{module}.lora_A.weight"].double()
            change = (weight.double() + delta).to(DTYPES[out or dtype]).double() - weight.double()
            x, y = float((change * delta).sum()), float((delta * delta).sum())
            kept, size, shares[name] = kept + x, size + y, x / y
    with opened(base, patch, Recipe(dtype=out)) as merger:
        fidelity = measure_fidelity(merger, arithmetic.load(), None)
    assert fidelity is not None
    assert fidelity.overall == pytest.approx(kept / size, rel=1e-9)
    assert fidelity.worst == pytest.approx(min(shares.values()), rel=1e-9)
    assert fidelity.worst_tensor == min(shares, key=lambda n: shares[n])
    assert not fidelity.sampled
    assert fidelity.bytes_read == sum(weights[n].nbytes for n in shares)
    if strength < 1e-3 and out is None:
        assert fidelity.overall == pytest.approx(1, abs=0.01) if dtype == "float32" else fidelity.overall < 0.9


def test_low_fidelity_is_a_warning_that_names_ways_out(shelf: Shelf) -> None:
    base = shelf.base("llama")
    patch = shelf.patch(base, r=4, lora_alpha=8, strength=2e-5)
    warning = findings(base, base, patch)["fidelity.low"]
    assert warning.severity == "warn"
    assert "float32" in warning.message
    assert "fidelity.low" not in findings(base, base, patch, Recipe(dtype="float32"))
    assert "fidelity.low" not in findings(base, base, shelf.patch(base))


@pytest.mark.parametrize(("dtype", "out", "size"), [("BF16", None, 1e20), ("F32", None, 1e20), ("BF16", "float16", 300)])
def test_a_merge_that_would_overflow_is_refused_before_it(dtype: str, out: str | None, size: float, tmp_path: Path) -> None:
    """The values of the patch are finite, their products are not in the output dtype; where they are, nothing is said."""
    module = ATTENTION.format(0, "q_proj")
    base = write_base(tmp_path / "base", {f"{module}.weight": matrix((6, 8), dtype, 1)})
    values = encode(integers(16, 1) * 2.0**-15 * size, "F32"), encode(integers(12, 2) * 2.0**-15 * size, "F32")
    pair = ("F32", (2, 8), values[0]), ("F32", (6, 2), values[1])
    patch = write_patch(tmp_path / "patch", {module: pair})
    recipe = Recipe(dtype=out)
    found = inspect(base, base, patch, recipe)
    assert not found.portable
    (refused,) = (f for f in found.findings if f.severity == "refuse")
    with pytest.raises(CoreError) as refusal:
        merge(base, patch, tmp_path / "out", recipe)
    assert (refused.code, refused.message, refused.data) == ("port.overflow", str(refusal.value), refusal.value.data)
    json.dumps(found.to_dict(), allow_nan=False)
    good = write_patch(tmp_path / "good", {module: pair}, lora_alpha=1e-38 if out is None else 1e-3)
    assert inspect(base, base, good, recipe).portable


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Matrices of several blocks whose last block is smaller than the others, one with a row that is split."""
    root = tmp_path_factory.mktemp("odd")
    shapes = {ATTENTION.format(0, "q_proj"): (1203, 900), ATTENTION.format(1, "q_proj"): (7, 2**20 + 9), "lm_head": (700, 1024)}
    base = write_base(root / "base", {f"{m}.weight": matrix(s, "BF16", i) for i, (m, s) in enumerate(shapes.items())})
    # A thousandth of the usual size, so that much of it is lost and the share is not trivially 1.
    return base, write_patch(root / "patch", {m: factors(s, 2, "F32", 5) for m, s in shapes.items()}, lora_alpha=0.03)


@pytest.mark.parametrize("max_bytes", [6 * 2**20, 2**20, 300_000, 20_000, 3])
def test_sampled_fidelity_is_close_and_within_its_budget(max_bytes: int, odd: tuple[Path, Path]) -> None:
    """Whatever the budget, down to less than an element for each tensor."""
    with opened(*odd) as merger:
        exact = measure_fidelity(merger, arithmetic.load(), None)
        sampled = measure_fidelity(merger, arithmetic.load(), max_bytes)
        assert measure_fidelity(merger, arithmetic.load(), max_bytes) == sampled
    assert exact is not None
    assert 0.05 < exact.overall < 0.95
    if max_bytes == 3:
        assert sampled is None
        return
    assert sampled is not None
    assert sampled.sampled
    assert 0 < sampled.bytes_read <= max_bytes
    assert sampled.overall == pytest.approx(exact.overall, abs=0.02 if max_bytes > 2**19 else 0.1)


def test_sampling_never_leaves_the_tensor(tmp_path: Path) -> None:
    """One big block and one row over: whichever is drawn, only bytes of this tensor are read."""
    for rows in (292, 293, 300):
        base = write_base(tmp_path / f"base{rows}", {"lm_head.weight": matrix((rows, 900), "BF16", 1)})
        patch = write_patch(tmp_path / f"patch{rows}", {"lm_head": factors((rows, 900), 2, "F32", 1)})
        with opened(base, patch) as merger:
            for budget in range(1800, 1800 * 290, 1800 * 17):
                fidelity = measure_fidelity(merger, arithmetic.load(), budget)
                assert fidelity is not None
                assert fidelity.bytes_read <= budget


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("drift", [0.003, 0.05, 0.3])
def test_lineage_of_a_continuation(dtype: str, drift: float, shelf: Shelf) -> None:
    """Against cos(W, W') and ||W' - W|| / ||W|| over whole tensors."""
    base = shelf.base("llama", dtype=dtype)
    new = shelf.continued(base, drift=drift)
    measured = lineage(base, new)
    x, y = load_model_tensors(base), load_model_tensors(new)
    matrices = {n for n, t in x.items() if t.dim() == 2}
    assert set(measured.tensors) == matrices
    for name in matrices:
        a, b = x[name].double().flatten(), y[name].double().flatten()
        assert measured.tensors[name].cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(a, b, 0)), rel=1e-6)
        assert measured.tensors[name].drift == pytest.approx(float((b - a).norm() / a.norm()), rel=1e-4)
    assert measured.overall.drift == pytest.approx(drift, rel=0.1)
    assert measured.overall.cosine > 0.95
    assert findings(base, new, shelf.patch(base))["lineage.measured"].severity == "info"


def test_an_independent_model_is_refused(shelf: Shelf) -> None:
    base, other = shelf.base("llama"), shelf.base("llama", seed=77)
    found = findings(base, other, shelf.patch(base))["lineage.unrelated"]
    assert found.severity == "refuse"
    assert abs(found.data["cosine"]) < 0.2
    assert not inspect(base, other, shelf.patch(base)).portable


def test_a_distant_model_is_a_warning(shelf: Shelf) -> None:
    base = shelf.base("llama")
    found = findings(base, shelf.continued(base, drift=0.8), shelf.patch(base))["lineage.distant"]
    assert found.severity == "warn"


def test_one_unrelated_tensor_among_the_touched_is_enough(shelf: Shelf, tmp_path: Path) -> None:
    names = [f"{ATTENTION.format(i, 'q_proj')}.weight" for i in range(4)]
    old = write_base(tmp_path / "old", {n: matrix((64, 64), "BF16", i) for i, n in enumerate(names)})
    new = write_base(tmp_path / "new", {n: matrix((64, 64), "BF16", 9 if i == 2 else i) for i, n in enumerate(names)})
    codes = {f.code for f in judge_lineage(lineage(old, new), names)}
    assert codes == {"lineage.unrelated"}
    assert {f.code for f in judge_lineage(lineage(old, new), names[:2])} == {"lineage.measured"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_release_that_is_not_finite_does_not_pass_for_related(value: float, tmp_path: Path) -> None:
    """NaN is neither smaller nor larger than any limit; the figures stay numbers that JSON can carry."""
    name = f"{ATTENTION.format(0, 'q_proj')}.weight"
    spoilt = integers(4096, 2) * 2.0**-20
    spoilt[5] = value
    old = write_base(tmp_path / "old", {name: matrix((64, 64), "F32", 1)})
    new = write_base(tmp_path / "new", {name: ("F32", (64, 64), encode(spoilt, "F32"))})
    found = inspect(old, new, write_patch(tmp_path / "patch", {name.removesuffix(".weight"): factors((64, 64), 2, "F32", 1)}))
    assert not found.portable
    json.dumps(found.to_dict(), allow_nan=False)


def big(path: Path, layers: int, dtype: str) -> Path:
    """A model of 4096 x 4096 matrices in one sparse file: 32 MiB each in bf16, no disk used."""
    width = {"BF16": 2, "F32": 4}[dtype]
    write_base(path, {})
    size = 4096 * 4096 * width
    entries = {
        f"{ATTENTION.format(i, 'q_proj')}.weight": {
            "dtype": dtype,
            "shape": [4096, 4096],
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(layers)
    }
    text = json.dumps(entries).encode()
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path / "model.safetensors", 8 + len(text) + layers * size)
    return path


@pytest.mark.parametrize(
    ("layers", "old", "new"), [(2, "BF16", "BF16"), (3, "F32", "BF16"), (300, "BF16", "BF16"), (2000, "BF16", "F32")]
)
def test_at_most_64_mebibytes_are_read_of_each_release(layers: int, old: str, new: str, tmp_path: Path) -> None:
    """Also of 60 and of 125 GiB, and the same places every time."""
    sources = [CountingSource(big(tmp_path / "old", layers, old)), CountingSource(big(tmp_path / "new", layers, new))]
    checkpoints: list[Checkpoint] = []
    for source, name in zip(sources, ("old", "new"), strict=True):
        files = {p.name: p.stat().st_size for p in (tmp_path / name).iterdir()}
        checkpoints.append(read_checkpoint(source, files))
        source.bytes_read.clear()
        source.reads.clear()
    measured = measure_lineage(checkpoints[0], sources[0], checkpoints[1], sources[1], arithmetic.load())
    assert len(measured.tensors) == layers
    for source in sources:
        assert 0 < source.bytes_read["model.safetensors"] <= MAX_SAMPLE_BYTES
    assert measured.bytes_read == max(s.bytes_read["model.safetensors"] for s in sources)
    if layers > 2:
        sampled = sources[0].bytes_read["model.safetensors"] / (layers * 4096 * 4096 * (2 if old == "BF16" else 4))
        assert sampled < 0.011
    first = list(sources[0].reads)
    sources[0].reads.clear()
    measure_lineage(checkpoints[0], sources[0], checkpoints[1], sources[1], arithmetic.load())
    assert sources[0].reads == first
    for source in sources:
        source.close()


def test_sampled_lineage_is_close_to_the_exact_one(tmp_path: Path) -> None:
    """150 MB, so that a hundredth is read: drift of 5 % in one tensor, none in another, an unrelated third."""
    shape, count = (2400, 8000), 2400 * 8000
    start = integers(count, 1) * 2.0**-20
    moved = start + integers(count, 2) * 2.0**-20 * 0.05
    versions = {"q_proj": (start, moved), "k_proj": (start, start), "v_proj": (start, integers(count, 3) * 2.0**-20)}
    for i, name in enumerate(("old", "new")):
        tensors = {f"{ATTENTION.format(0, n)}.weight": ("F32", shape, encode(v[i], "F32")) for n, v in versions.items()}
        write_base(tmp_path / name, tensors)
    measured = lineage(tmp_path / "old", tmp_path / "new")
    q, k, v = (measured.tensors[f"{ATTENTION.format(0, n)}.weight"] for n in versions)
    assert measured.bytes_read < 0.011 * 3 * count * 4
    assert (k.cosine, k.drift) == (pytest.approx(1, abs=1e-12), 0)
    assert q.drift == pytest.approx(0.05, rel=0.01)
    assert abs(v.cosine) < 0.01
    assert lineage(tmp_path / "old", tmp_path / "new") == measured
    assert Lineage.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured
