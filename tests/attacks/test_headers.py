"""Hostile safetensors files, as the weights of a base and as the file of a patch."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.core.errors import CATALOGUE
from app.core.safetensors_header import MAX_HEADER_BYTES
from tests.support.files import raw_file
from tests.support.hostile import MODULE, Refusal

NAME = f"{MODULE}.weight"


def entry(begin: int = 0, end: int = 96, dtype: Any = "BF16", shape: Any = (6, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]} | more


def one(data: int = 96, **fields: Any) -> bytes:
    """A file of one tensor with these fields, and `data` bytes."""
    return raw_file({NAME: entry(**fields)}, bytes(data))


def two(first: tuple[int, int], second: tuple[int, int], data: int) -> bytes:
    """A file of two vectors of bytes at these offsets."""
    entries = {n: entry(b, e, "U8", [e - b]) for n, (b, e) in (("x", first), ("y", second))}
    return raw_file(entries, bytes(data))


def text(header: str) -> bytes:
    return raw_file(header.encode(), bytes(96))


ENTRY = json.dumps(entry())
HUGE = 10**30
FILES: list[tuple[str, str, bytes]] = [
    ("header.truncated", "empty file", b""),
    ("header.truncated", "seven bytes", bytes(7)),
    ("header.truncated", "length beyond the end", raw_file(b"{}", length=100)),
    ("header.truncated", "data cut short", one(95)),
    ("header.truncated", "no data", one(0)),
    ("header.too_large", "length of all ones", raw_file(b"{}", length=2**64 - 1)),
    ("header.too_large", "length of 100 MB", raw_file(b"{}", length=100_000_000)),
    ("header.too_large", "one byte too many", raw_file(b"{}", length=MAX_HEADER_BYTES + 1)),
    ("header.invalid_json", "length of zero", raw_file(b"", b"{}")),
    ("header.invalid_json", "not JSON", text("{nothing}")),
    ("header.invalid_json", "a list", text("[]")),
    ("header.invalid_json", "space before it", text(" {}")),
    ("header.invalid_json", "something after it", text("{} {}")),
    ("header.invalid_json", "not UTF-8", raw_file(b'{"\xff": 1}')),
    ("header.invalid_json", "UTF-16", raw_file("{}".encode("utf-16"))),
    ("header.invalid_json", "byte order mark", raw_file(b"\xef\xbb\xbf{}")),
    ("header.invalid_json", "nested 100,000 deep", text('{"x":' + "[" * 100_000 + "]" * 100_000 + "}")),
    ("header.invalid_json", "100,000 objects deep", text('{"x":' * 100_000 + "1" + "}" * 100_000)),
    ("header.invalid_json", "a number of 10,000 digits", text(f'{{"x": {"9" * 10_000}}}')),
    ("header.invalid_json", "half a character as a name", text(f'{{"\\ud800": {ENTRY}}}')),
    ("header.invalid_json", "half a character in the metadata", text('{"__metadata__": {"a": "\\udfff"}}')),
    ("header.invalid_json", "control character in a name", text(f'{{"a\0b": {ENTRY}}}')),
    ("header.duplicate_key", "one name twice", text(f'{{"{NAME}": {ENTRY}, "{NAME}": {ENTRY}}}')),
    ("header.duplicate_key", "one name written in two ways", text(f'{{"a": {ENTRY}, "\\u0061": {ENTRY}}}')),
    ("header.duplicate_key", "two shapes", text('{"a": {"dtype":"U8","shape":[96],"shape":[1],"data_offsets":[0,96]}}')),
    ("header.duplicate_key", "two metadata", text('{"__metadata__": {}, "__metadata__": {"a": "b"}}')),
    ("header.duplicate_key", "half a character twice", text('{"\\ud800": 1, "\\ud800": 2}')),
    ("header.invalid_entry", "no fields", raw_file({NAME: {}})),
    ("header.invalid_entry", "a field too many", raw_file({NAME: entry(strides=[8, 1])}, bytes(96))),
    ("header.invalid_entry", "not an object", raw_file({NAME: [0, 96]}, bytes(96))),
    ("header.invalid_entry", "empty name", raw_file({"": entry()}, bytes(96))),
    ("header.invalid_entry", "name of 10,000 characters", raw_file({"n" * 10_000: entry()}, bytes(96))),
    ("header.invalid_entry", "negative size", one(shape=[-6, -8])),
    ("header.invalid_entry", "fractional size", one(shape=[6.0, 8])),
    ("header.invalid_entry", "true as a size", one(shape=[True, 48])),
    ("header.invalid_entry", "shape is a number", one(shape=48)),
    ("header.invalid_entry", "size of 10^30", one(shape=[HUGE, 0])),
    ("header.invalid_entry", "size of 2^63", one(shape=[2**63, 0])),
    ("header.invalid_entry", "99 dimensions", one(shape=[1] * 99)),
    ("header.invalid_entry", "three offsets", raw_file({NAME: entry() | {"data_offsets": [0, 1, 96]}}, bytes(96))),
    ("header.invalid_entry", "offsets backwards", one(begin=96, end=0)),
    ("header.invalid_entry", "negative offsets", one(begin=-96, end=0)),
    ("header.invalid_entry", "offsets of 10^30", one(begin=HUGE, end=HUGE + 96)),
    ("header.invalid_entry", "NaN as an offset", text('{"a": {"dtype":"U8","shape":[1],"data_offsets":[NaN,1]}}')),
    ("header.invalid_entry", "metadata of numbers", raw_file({"__metadata__": {"a": 1}})),
    ("header.invalid_entry", "metadata is a list", raw_file({"__metadata__": []})),
    ("header.unknown_dtype", "no such dtype", one(dtype="BF17")),
    ("header.unknown_dtype", "lower case", one(dtype="bf16")),
    ("header.unknown_dtype", "dtype is a list", one(dtype=["BF16"])),
    ("header.unknown_dtype", "dtype is deep", one(dtype=json.loads("[" * 300 + "]" * 300))),
    ("header.size_mismatch", "shape larger than the data", one(shape=[6, 9])),
    ("header.size_mismatch", "shape smaller than the data", one(shape=[6, 7])),
    ("header.size_mismatch", "another dtype", one(dtype="F32")),
    ("header.size_mismatch", "sizes whose product wraps in 64 bits", one(shape=[16, 2**59 + 3])),
    ("header.size_mismatch", "scalar with the bytes of two", one(data=4, end=4, shape=[])),
    ("header.overlap", "two tensors in one place", two((0, 48), (0, 48), 48)),
    ("header.overlap", "one byte shared", two((0, 48), (47, 96), 96)),
    ("header.overlap", "one inside the other", two((0, 96), (10, 20), 96)),
    ("header.gap", "before the first", one(data=104, begin=8, end=104)),
    ("header.gap", "between two", two((0, 40), (48, 96), 96)),
    ("header.trailing_bytes", "one byte", one(97)),
    ("header.trailing_bytes", "a second file", one() + one()),
    ("header.trailing_bytes", "data without tensors", raw_file(b"{}", bytes(8))),
]
CASES = pytest.mark.parametrize(("code", "file"), [(c, f) for c, _, f in FILES], ids=[f"{c}: {n}" for c, n, _ in FILES])


@CASES
def test_bad_header_in_the_weights_of_a_base_is_refused(
    code: str, file: bytes, base: Path, patch: Path, refusal: Refusal
) -> None:
    (base / "model.safetensors").write_bytes(file)
    error = refusal(base, patch)
    assert error.code == code
    assert "model.safetensors" in error.detail


@CASES
def test_bad_header_in_the_second_shard_of_a_base_is_refused(
    code: str, file: bytes, sharded: Path, patch: Path, refusal: Refusal
) -> None:
    (sharded / "model-00002-of-00002.safetensors").write_bytes(file)
    assert refusal(sharded, patch).code == code


@CASES
def test_bad_header_in_a_patch_is_refused(code: str, file: bytes, base: Path, patch: Path, refusal: Refusal) -> None:
    (patch / "adapter_model.safetensors").write_bytes(file)
    assert refusal(base, patch).code == code


def test_every_code_of_headers_is_in_the_table() -> None:
    of_patches_alone = {"header.too_many_tensors"}  # tests/attacks/test_bombs.py
    assert {code for code, _, _ in FILES} | of_patches_alone == {code for code in CATALOGUE if code.startswith("header.")}


def test_header_with_megabytes_of_keys_is_refused_quickly(base: Path, patch: Path, refusal: Refusal) -> None:
    """30,000 tensors of one byte each are valid (2.5 MB of header); that there is no such module is told in a second."""
    count = 30_000
    header = {f"t{i}": entry(i, i + 1, "U8", [1]) for i in range(count)}
    (base / "model.safetensors").write_bytes(raw_file(header, bytes(count)))
    assert refusal(base, patch).code == "port.target_missing"
