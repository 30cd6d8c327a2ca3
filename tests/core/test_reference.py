"""Exactness against an independent reference in numpy (tests/support/reference.py), on more than a million elements a case.

The only difference allowed is the noise of summation order, 2^-53, when it lies just at a rounding boundary.
"""

from pathlib import Path

import numpy as np
import pytest

from app.core.offline import merge
from app.core.recipe import MAX_ROW_ELEMENTS, Recipe
from tests.support import reference
from tests.support.files import Tensor, encode, integers, write_base, write_patch

MODULE = "model.layers.0.mlp.down_proj"
SHAPE = (1536, 1200)
WIDE = (2, MAX_ROW_ELEMENTS + 99)  # split by columns
NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def random_tensor(shape: tuple[int, int], dtype: str, seed: int, size: float) -> Tensor:
    """Numbers that fill the significand of the dtype, of very different sizes, with both zeros among them."""
    values = np.random.default_rng(seed).standard_normal(shape) ** 3 * size
    values[integers(shape[0] * shape[1], seed).reshape(shape) % 1000 == 0] = -0.0
    return dtype, shape, encode(values, dtype)


@pytest.mark.parametrize(
    ("stored", "factors", "out", "rank", "alpha", "rslora", "shape"),
    [
        ("BF16", "F32", "BF16", 16, 32, False, SHAPE),
        ("BF16", "BF16", "BF16", 64, 1, True, SHAPE),
        ("F16", "F16", "F16", 8, 3.3, False, SHAPE),
        ("F32", "F32", "F32", 16, 20, False, SHAPE),
        ("F32", "F16", "F32", 5, 7, True, SHAPE),
        ("F32", "F32", "BF16", 4, 4, False, SHAPE),
        ("BF16", "F32", "F16", 8, 16, False, SHAPE),
        ("F16", "F32", "BF16", 3, 1, False, SHAPE),
        ("BF16", "BF16", "F32", 32, 16, False, SHAPE),
        ("BF16", "F32", "BF16", 4, 9, False, WIDE),
        ("F32", "BF16", "F32", 2, 3, True, WIDE),
    ],
)
def test_every_element_is_as_the_reference_says(
    stored: str, factors: str, out: str, rank: int, alpha: float, rslora: bool, shape: tuple[int, int], tmp_path: Path
) -> None:
    weight = random_tensor(shape, stored, 1, 0.02)
    a, b = random_tensor((rank, shape[1]), factors, 2, 0.05), random_tensor((shape[0], rank), factors, 3, 0.05)
    base = write_base(tmp_path / "base", {f"{MODULE}.weight": weight})
    patch = write_patch(tmp_path / "patch", {MODULE: (a, b)}, lora_alpha=alpha, use_rslora=rslora)
    merge(base, patch, tmp_path / "out", Recipe(dtype=None if out == stored else NAMES[out]))

    data = (tmp_path / "out/model.safetensors").read_bytes()
    ours = np.frombuffer(data[8 + int.from_bytes(data[:8], "little") :], reference.UNSIGNED[out]).reshape(shape)
    expected = reference.merged(weight, a, b, alpha / rank**0.5 if rslora else alpha / rank, out)
    apart = reference.steps_apart(ours, expected)
    assert apart.max() <= 1
    assert (apart > 0).mean() <= 1e-6


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_the_reference_rounds_as_ieee_does(dtype: str) -> None:
    """Every bit pattern of the half types, and the points between neighbours, against numpy's own casts."""
    patterns = np.arange(0x7C00 if dtype == "F16" else 0x7F80, dtype="<u2")
    exact = (
        patterns.view("<f2").astype(np.float64) if dtype == "F16" else (patterns.astype("<u4") << 16).view("<f4").astype(float)
    )
    between = (exact[1:] + exact[:-1]) / 2
    if dtype == "F32":
        assert (reference.rounded(between, "F32") == between.astype("<f4").view("<u4")).all()
        return
    assert (reference.rounded(exact, dtype) == patterns).all()
    assert (reference.rounded(-exact, dtype) == patterns + 0x8000).all()
    ties = reference.rounded(between, dtype)
    assert (ties % 2 == 0).all()
    assert (np.abs(ties.astype(int) - patterns[:-1]) <= 1).all()
    above = np.nextafter(between.astype("<f4"), np.float32(np.inf))
    assert (reference.rounded(above, dtype) == patterns[1:]).all()
