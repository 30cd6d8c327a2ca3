"""safetensors headers, by property: valid ones survive, broken ones are refused by name.

Nothing is accepted that the safetensors library refuses.
"""

import json
import math
import random
from pathlib import Path

import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.core.errors import HeaderError
from app.core.safetensors_header import DTYPE_BYTES, MAX_NAME_LENGTH, Header, parse_header, parse_length, render_header
from app.core.source import DirectorySource, read_header
from tests.support.files import raw_file

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda n: n != "__metadata__")
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
TENSORS = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPE_BYTES)), SHAPES), max_size=8).map(
    lambda d: [(name, dtype, shape) for name, (dtype, shape) in d.items()]
)
METADATA = st.dictionaries(NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=3)


def parse(file: bytes) -> Header:
    """Reads a header as `read_header` does."""
    length = parse_length(file[:8], "f", len(file))
    return parse_header(file[8 : 8 + length], "f", len(file))


def library_accepts(file: bytes) -> bool:
    try:
        safetensors.deserialize(file)
    except safetensors.SafetensorError:
        return False
    return True


@given(TENSORS, METADATA)
def test_valid_headers_round_trip(tensors: list[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]) -> None:
    start, header = render_header(tensors, metadata)
    size = sum(math.prod(shape) * DTYPE_BYTES[dtype] for _, dtype, shape in tensors)
    parsed = parse(start + bytes(size))
    assert len(start) % 8 == 0
    assert parsed == header or _unordered(parsed) == _unordered(header)
    assert [(t.name, t.dtype, t.shape) for t in header.tensors] == tensors
    assert parsed.metadata == metadata
    assert parsed.data_start + size == len(start) + size


@given(TENSORS)
def test_the_library_reads_what_we_write(tensors: list[tuple[str, str, tuple[int, ...]]]) -> None:
    start, header = render_header(tensors, {})
    data = random.Random(1).randbytes(header.tensors[-1].end if header.tensors else 0)
    seen = dict(safetensors.deserialize(start + data))
    assert {t.name: data[t.begin : t.end] for t in header.tensors} == {name: bytes(entry["data"]) for name, entry in seen.items()}
    assert {t.name: list(t.shape) for t in header.tensors} == {name: entry["shape"] for name, entry in seen.items()}


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(TENSORS, st.data())
def test_mutated_files_are_refused_by_name_or_valid(tensors: list[tuple[str, str, tuple[int, ...]]], data: st.DataObject) -> None:
    """Bytes flipped, removed, put in or repeated anywhere: a HeaderError, or a header that the library accepts too."""
    start, header = render_header(tensors, {"format": "pt"})
    file = bytearray(start + bytes(header.tensors[-1].end if header.tensors else 0))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(0, len(file) - 1)))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat", "end"]))
        if kind == "flip" and file:
            file[place] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del file[place : place + data.draw(st.integers(1, 20))]
        elif kind == "insert":
            file[place:place] = data.draw(
                st.sampled_from([b'"', b"{", b"}", b"[", b",", b"-1", b"\\ud800", b"9" * 30, b"\0", b"\xff"])
            )
        elif kind == "repeat":
            file[place:place] = file[place : place + 30]
        else:
            file += b"\0"
    _refused_or_valid(bytes(file))


NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=True)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.sampled_from(["F32", "BF16"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": JSON | st.sampled_from(sorted(DTYPE_BYTES)),
        "shape": JSON | st.lists(st.integers(-1, 4), max_size=3),
        "data_offsets": JSON | st.lists(st.integers(-1, 64), min_size=1, max_size=3),
        "extra": JSON,
    },
)


@settings(max_examples=300)
@given(st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), JSON | ENTRIES, max_size=3), st.integers(0, 64))
def test_any_json_is_refused_by_name_or_valid(header: dict[str, object], size: int) -> None:
    _refused_or_valid(raw_file(json.dumps(header).encode(), bytes(size)))


@given(st.binary(max_size=64), st.integers(0, 2**64 - 1) | st.none())
def test_any_bytes_are_refused_by_name_or_valid(content: bytes, length: int | None) -> None:
    _refused_or_valid(raw_file(content, b"", length))


@given(st.binary(max_size=12))
def test_short_files(content: bytes) -> None:
    with pytest.raises(HeaderError):
        parse(content)


def test_header_is_read_from_a_file(tmp_path: Path) -> None:
    start, header = render_header([("a", "F16", (3, 5)), ("b", "I64", ())], {"format": "pt"})
    (tmp_path / "x.safetensors").write_bytes(start + bytes(38))
    with DirectorySource(tmp_path) as source:
        assert read_header(source, "x.safetensors") == header


def test_longest_name() -> None:
    start, header = render_header([("n" * MAX_NAME_LENGTH, "U8", (1,))], {})
    assert parse(start + b"\0") == header
    start, _ = render_header([("n" * (MAX_NAME_LENGTH + 1), "U8", (1,))], {})
    with pytest.raises(HeaderError) as refusal:
        parse(start + b"\0")
    assert refusal.value.code == "header.invalid_entry"


def _refused_or_valid(file: bytes) -> None:
    try:
        header = parse(file)
    except HeaderError as error:
        str(error).encode()  # the sentence can be sent to somebody
        return
    assert library_accepts(file), file
    end = 0
    for tensor in header.tensors:
        assert tensor.begin == end
        assert tensor.nbytes == math.prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]
        end = tensor.end
    assert header.data_start + end == len(file)
    json.dumps([t.name for t in header.tensors], ensure_ascii=False).encode()


def _unordered(header: Header) -> tuple[int, dict[str, tuple[int, int]], dict[str, str]]:
    """Tensors without a byte may change places with their neighbour."""
    return header.data_start, {t.name: (t.begin, t.end) for t in header.tensors}, header.metadata
