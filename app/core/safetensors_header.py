"""safetensors headers: parsed, validated, written.

Format (https://github.com/huggingface/safetensors#format): 8 bytes little-endian length N, N bytes of JSON, then the
tensors' bytes. Every way in which a header can lie is refused by its own code, because the bytes that follow are
served to others by what the header says.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from app.core.errors import HeaderError

# The format allows 100 MB; the largest header in the field is under 2 MB, and JSON costs about 20 times its size to parse.
MAX_HEADER_BYTES = 16 * 2**20
MAX_NAME_LENGTH = 512
MAX_DIMENSIONS = 8

DTYPE_BYTES: dict[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: row-major, `begin` and `end` in bytes from the start of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """A valid header. `tensors` is in file order; `data_start` is the file offset of the data section in bytes."""

    data_start: int
    tensors: tuple[TensorInfo, ...]
    metadata: dict[str, str]

    @cached_property
    def by_name(self) -> dict[str, TensorInfo]:
        return {t.name: t for t in self.tensors}


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """The maximum size of a header, in bytes and in tensors."""

    length: int = MAX_HEADER_BYTES
    tensors: int = MAX_HEADER_BYTES


ANY_HEADER = HeaderLimits()


def parse_length(prefix: bytes, path: str, file_size: int, limits: HeaderLimits = ANY_HEADER) -> int:
    """Reads the header length from the first 8 bytes of a file.

    Raises:
        HeaderError: header.truncated, header.too_large.
    """
    if len(prefix) < 8 or file_size < 8:
        raise HeaderError("header.truncated", path=path, expected=8, size=min(len(prefix), file_size))
    length = int.from_bytes(prefix[:8], "little")
    if length > limits.length:
        raise HeaderError("header.too_large", path=path, length=length, limit=limits.length)
    if 8 + length > file_size:
        raise HeaderError("header.truncated", path=path, expected=8 + length, size=file_size)
    return length


def parse_header(text: bytes, path: str, file_size: int, limits: HeaderLimits = ANY_HEADER) -> Header:
    """Parses the JSON part of a header and checks it against the size of the file.

    Args:
        text: the N bytes of JSON.
        path: name for messages.
        file_size: size of the whole file in bytes.
        limits: the maximum number of tensors.

    Raises:
        HeaderError: any header.* code.
    """
    entries = _load_json(text, path)
    metadata = _metadata(entries.pop("__metadata__", None), path)
    if len(entries) > limits.tensors:
        raise HeaderError("header.too_many_tensors", path=path, count=len(entries), limit=limits.tensors)
    tensors = sorted((_tensor(name, e, path) for name, e in entries.items()), key=lambda t: (t.begin, t.end))
    data_start = 8 + len(text)
    _check_layout(tensors, path, file_size - data_start)
    return Header(data_start, tuple(tensors), metadata)


def render_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]) -> tuple[bytes, Header]:
    """Writes a header for (name, dtype, shape) triples in file order, padded to 8 bytes with spaces.

    Returns:
        The bytes before the data section (length prefix included) and the header they describe.
    """
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    infos, offset = [], 0
    for name, dtype, shape in tensors:
        end = offset + math.prod(shape) * DTYPE_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        infos.append(TensorInfo(name, dtype, shape, offset, end))
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, Header(8 + len(text), tuple(infos), metadata)


def _load_json(text: bytes, path: str) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise HeaderError("header.invalid_json", path=path, reason="it does not begin with '{'")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            key = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
            raise HeaderError("header.duplicate_key", path=path, key=key[:MAX_NAME_LENGTH])
        return result

    try:
        loaded = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
        if b"\\u" in text:  # an escape can stand for half a character, which cannot be written again
            json.dumps(loaded, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise HeaderError("header.invalid_json", path=path, reason=reason) from None
    return dict(loaded)


def _metadata(value: Any, path: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise HeaderError("header.invalid_entry", path=path, tensor="__metadata__", reason="it must map names to strings")
    return value


def _tensor(name: str, entry: Any, path: str) -> TensorInfo:
    def invalid(reason: str) -> HeaderError:
        return HeaderError("header.invalid_entry", path=path, tensor=name[:MAX_NAME_LENGTH], reason=reason)

    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise invalid(f"names have 1 to {MAX_NAME_LENGTH} characters")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise invalid("it must have just dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise HeaderError("header.unknown_dtype", path=path, tensor=name, dtype=str(dtype)[:40])
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_size(n) for n in shape):
        raise invalid(f"the shape must be a list of at most {MAX_DIMENSIONS} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets) or offsets[0] > offsets[1]:
        raise invalid("data_offsets must be [begin, end]")
    expected = math.prod(shape) * DTYPE_BYTES[dtype]
    if offsets[1] - offsets[0] != expected:
        raise HeaderError("header.size_mismatch", path=path, tensor=name, expected=expected, actual=offsets[1] - offsets[0])
    return TensorInfo(name, dtype, tuple(shape), offsets[0], offsets[1])


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _check_layout(tensors: list[TensorInfo], path: str, data_bytes: int) -> None:
    end = 0
    for tensor in tensors:
        if tensor.begin < end:
            raise HeaderError("header.overlap", path=path, tensor=tensor.name, begin=tensor.begin, end=end)
        if tensor.begin > end:
            raise HeaderError("header.gap", path=path, tensor=tensor.name, begin=tensor.begin, end=end)
        end = tensor.end
    if data_bytes < end:
        raise HeaderError("header.truncated", path=path, expected=end, size=data_bytes)
    if data_bytes > end:
        raise HeaderError("header.trailing_bytes", path=path, count=data_bytes - end)
