"""Golden bytes: what a merge must give, byte for byte, on every machine and after every change.

Whoever has to change one of these values changes what every stored recipe stands for, and must raise ARITHMETIC_VERSION.
"""

import hashlib
from pathlib import Path

import pytest

from app.core.offline import merge
from app.core.recipe import ARITHMETIC_VERSION, Recipe, etag, fingerprint
from tests.support.files import factors, matrix, write_base, write_patch

MODULE = "model.layers.0.self_attn.q_proj"
WEIGHT = f"{MODULE}.weight"
# Rank 1, s = 1, in float32: A = (1, 2, -1/2, 0), B = (2^-8, 3 * 2^-8). So the rows of D are
# (2^-8, 2^-7, -2^-9, 0) and (3 * 2^-8, 6 * 2^-8, -3 * 2^-9, 0).
A = "0000803f 00000040 000000bf 00000000"
B = "0000803b 0000403c"
# W = (1, 1, 1, -0), (1, -1, 256, 2^-7), and W + D, both as stored (little-endian).
GOLDEN = {
    # 1 + 2^-8 is a tie and goes to even, 1. 1 + 2^-7 is a bf16 number. 1 - 2^-9 is a tie, to 1. -0 + 0 is +0.
    # 1 + 3*2^-8 is a tie, to 1 + 2^-6. -1 + 6*2^-8 is a bf16 number. 256 keeps nothing of 3*2^-9.
    "BF16": (
        "803f 803f 803f 0080  803f 80bf 8043 003c",
        "803f 813f 803f 0000  823f 7abf 8043 003c",
    ),
    # All are fp16 numbers but 256 - 3*2^-9: below 256 a unit is 2^-3.
    "F16": (
        "003c 003c 003c 0080  003c 00bc 005c 0020",
        "043c 083c fc3b 0000  0c3c d0bb 005c 0020",
    ),
    # All are fp32 numbers.
    "F32": (
        "0000803f 0000803f 0000803f 00000080  0000803f 000080bf 00008043 0000003c",
        "0080803f 0000813f 00807f3f 00000000  0080813f 00007abf 80fe7f43 0000003c",
    ),
}
# sha256 of the whole model.safetensors of `big`, by dtype of the base.
BIG = {
    "BF16": "69d41cbb569699343b69880c58a75e9929de4c3ece280d25458a5bcbed57c190",
    "F16": "e94b4c478d922aa85a23bca9a7a2c8bc6f32eaac948d3b2036f01e81fb2137bf",
    "F32": "7a2b58aecacd44ec28989e26cea1a06905a3f2f786a0fb8ab270e43205732a17",
}


def merged_data(
    tmp_path: Path, dtype: str, shape: tuple[int, int], weight: str, rank: int, a: str, b: str, recipe: Recipe
) -> str:
    """The data section, in hexadecimal, of a merged base of one weight; everything is given in hexadecimal."""
    base = write_base(tmp_path / "base", {WEIGHT: (dtype, shape, bytes.fromhex(weight))})
    pair = (("F32", (rank, shape[1]), bytes.fromhex(a)), ("F32", (shape[0], rank), bytes.fromhex(b)))
    patch = write_patch(tmp_path / "patch", {MODULE: pair}, lora_alpha=rank)
    merge(base, patch, tmp_path / "out", recipe)
    content = (tmp_path / "out/model.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :].hex()


@pytest.mark.parametrize("dtype", GOLDEN)
def test_small_merge(dtype: str, tmp_path: Path) -> None:
    weight, expected = GOLDEN[dtype]
    assert merged_data(tmp_path, dtype, (2, 4), weight, 1, A, B, Recipe()) == expected.replace(" ", "")


@pytest.mark.parametrize(("stored", "asked"), [("BF16", "float16"), ("F16", "float32"), ("F32", "bfloat16"), ("BF16", "float32")])
def test_small_merge_into_another_dtype(stored: str, asked: str, tmp_path: Path) -> None:
    """W is exact in all three dtypes, so the result depends only on the one that is asked for."""
    wanted = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[asked]
    merged = merged_data(tmp_path, stored, (2, 4), GOLDEN[stored][0], 1, A, B, Recipe(dtype=asked))
    assert merged == GOLDEN[wanted][1].replace(" ", "")


def test_half_types_are_rounded_by_way_of_float32(tmp_path: Path) -> None:
    """1 + 2^-8 + 2^-30 lies above the tie, but float32 cannot tell it from 1 + 2^-8, which goes to even: 1."""
    assert merged_data(tmp_path, "BF16", (1, 1), "803f", 1, "0200803f", "0000803b", Recipe()) == "803f"


def test_products_are_summed_in_double_precision(tmp_path: Path) -> None:
    """Rank 3: 2^30 + 2^-20 - 2^30, which is 0 in single precision; 0 + 2^-20 is stored as 35800000."""
    a, b = "0000804e 00008035 000080ce", "0000803f 0000803f 0000803f"
    assert merged_data(tmp_path, "F32", (1, 1), "00000000", 3, a, b, Recipe()) == "00008035"


@pytest.mark.parametrize("dtype", BIG)
def test_big_merge(dtype: str, tmp_path: Path) -> None:
    """Two tensors of several blocks each and one that nothing touches; all sums are exact, so no processor differs."""
    shapes = {"q_proj": (300, 1400), "v_proj": (1030, 513)}
    tensors = {
        f"model.layers.0.self_attn.{name}.weight": matrix(shape, dtype, seed=i) for i, (name, shape) in enumerate(shapes.items())
    }
    base = write_base(tmp_path / "base", tensors | {"model.norm.weight": matrix((1400,), dtype, seed=9)})
    deltas = {f"model.layers.0.self_attn.{n}": factors(s, 4, "BF16", seed=20 + i) for i, (n, s) in enumerate(shapes.items())}
    patch = write_patch(tmp_path / "patch", deltas, lora_alpha=8)
    merge(base, patch, tmp_path / "out")
    assert hashlib.sha256((tmp_path / "out/model.safetensors").read_bytes()).hexdigest() == BIG[dtype]


def test_fingerprint_and_etag() -> None:
    assert ARITHMETIC_VERSION == 1
    base, patch = "a" * 64, "b" * 64
    assert fingerprint(Recipe(), base, patch) == "89453a74fffa7f5a2141179e9ffe9aafdb36414715b72e75babd78a5006e0fb1"
    other = Recipe(dtype="float32", tokenizer="patch")
    assert fingerprint(other, base, patch) == "e627902e8984eb88b6f04b7e65196bde3c872603994c5eae84f244eaf06d560b"
    assert etag("c" * 64, "model-00001-of-00002.safetensors") == "939df11098d6f6f7bf1a0d83f417066f18a1477c"


def test_fingerprint_is_the_sha256_of_canonical_json() -> None:
    """Anyone can compute it without this package."""
    text = '{"arithmetic":1,"base":"x","dtype":"float16","patch":"y","strategy":"add","tokenizer":"release"}'
    assert fingerprint(Recipe(dtype="float16"), "x", "y") == hashlib.sha256(text.encode()).hexdigest()
