"""Xet blocks and shards: what clients send is read however it is cut, and what lies is refused by name, in bounded memory.

Blocks of the real client are in `tests/live/hub`; here they are made by hand, because no client makes hostile ones.
"""

import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.errors import XetError
from app.core.xet import (
    DESCRIBED,
    END,
    FOOTER,
    GROUPED,
    LZ4,
    MAX_BLOCK_BYTES,
    MAX_CHUNK_BYTES,
    MAX_CHUNKS,
    PLAIN,
    TAG,
    VERIFIED,
    Block,
    BlockScanner,
    ShardFile,
    ShardScanner,
    hash_name,
)
from tests.support.xet_blocks import chunk, header, raw

NAME = "ab" * 32


def scanned(block: bytes, cuts: int = 10_000) -> Block:
    scanner = BlockScanner(NAME)
    for at in range(0, len(block), cuts):
        scanner.feed(block[at : at + cuts])
    return Block(NAME, scanner.finish())


def unpacked(block: bytes, start: int = 0, stop: int | None = None) -> bytes:
    found = scanned(block)
    stop = len(found._packed) if stop is None else stop
    return b"".join(found.chunks(lambda at, count: block[at : at + count], start, stop))


def refused(code: str, act: object, *arguments: object) -> str:
    with pytest.raises(XetError) as caught:
        act(*arguments)  # type: ignore[operator]
    assert caught.value.code == code
    return caught.value.detail


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=3000), st.sampled_from([PLAIN, LZ4, GROUPED])), min_size=1, max_size=8),
    st.integers(1, 999),
    st.booleans(),
)
def test_block_is_read_however_it_is_cut(parts: list[tuple[bytes, int]], cuts: int, footer: bool) -> None:
    """Chunks come out as they went in, whichever way they are packed and the body is cut; a footer is passed over."""
    block = b"".join(chunk(data, scheme) for data, scheme in parts) + (FOOTER + b"\1" + bytes(100) if footer else b"")
    found = scanned(block, cuts)
    for start in range(len(parts)):
        wanted = b"".join(data for data, _ in parts[start:])
        assert found.size(start, len(parts)) == len(wanted)
        assert b"".join(found.chunks(lambda at, count: block[at : at + count], start, len(parts))) == wanted


@pytest.mark.parametrize(
    ("block", "word"),
    [
        (b"", "no chunk"),
        (FOOTER + b"\1", "no chunk"),
        (header(5, PLAIN, 5) + b"1234", "within a chunk"),
        (chunk(b"a") + b"\0\1", "within a chunk"),
        (header(16 * 2**20 - 1, LZ4, 100), "takes 16777215"),
        (header(10, LZ4, 16 * 2**20 - 1), "16777215 bytes; a chunk has"),
        (header(10, LZ4, 0), "0 bytes; a chunk has"),
        (header(0, LZ4, 10), "takes 0"),
        (header(4, PLAIN, 5), "takes 4"),
        (header(4, 3, 5), "scheme 3"),
        (header(4, 255, 5), "scheme 255"),
        (header(4, PLAIN, 4, version=1), "version 1"),
        (chunk(b"a") * (MAX_CHUNKS + 1), "more than 8192"),
    ],
)
def test_invalid_chunk_header_is_refused(block: bytes, word: str) -> None:
    assert word in refused("xet.block", scanned, block)


@pytest.mark.parametrize("scheme", [LZ4, GROUPED])
@pytest.mark.parametrize("says", [1, 99, 101, MAX_CHUNK_BYTES])
def test_chunk_of_another_length_than_its_header_is_refused(scheme: int, says: int) -> None:
    assert "does not unpack" in refused("xet.block", unpacked, chunk(bytes(100), scheme, says))


@pytest.mark.parametrize(
    "packed",
    [b"not lz4 at all", b"\x04\x22\x4d\x18", lz4.frame.compress(b"x" * 64)[:-4], lz4.frame.compress(b"x" * 64) + b"more"],
)
def test_chunk_that_is_no_frame_is_refused(packed: bytes) -> None:
    assert "does not unpack" in refused("xet.block", unpacked, header(len(packed), LZ4, 64) + packed)


def test_a_bomb_is_not_unpacked() -> None:
    """A frame of a quarter gigabyte of zeros that says it is a chunk costs no more than a chunk."""
    packed = lz4.frame.compress(bytes(2**18 - 1) * 200, block_size=lz4.frame.BLOCKSIZE_MAX4MB)[: 2 * MAX_CHUNK_BYTES]
    tracemalloc.start()
    refused("xet.block", unpacked, header(len(packed), LZ4, MAX_CHUNK_BYTES) + packed)
    assert tracemalloc.get_traced_memory()[1] < 16 * MAX_CHUNK_BYTES
    tracemalloc.stop()


def test_block_beyond_its_maximum_size_is_refused() -> None:
    """64 MiB of chunks that cannot be packed, as the real client sends them, with headers on top; not a chunk more."""
    scanner, largest = BlockScanner(NAME), chunk(bytes(MAX_CHUNK_BYTES))
    for _ in range(512):
        scanner.feed(largest)
    assert len(scanner.finish()) == 512 * 8
    with pytest.raises(XetError, match=f"more than {MAX_BLOCK_BYTES} bytes"):
        scanner.feed(largest * 8)


def test_chunk_range_beyond_the_block_is_refused() -> None:
    found = scanned(chunk(b"abc") + chunk(b"de"))
    assert found.size(0, 2) == 5
    for start, stop in ((0, 3), (1, 1), (2, 1), (2, 3), (0, 2**32 - 1)):
        assert "which has 2" in refused("xet.shard", found.size, start, stop)


# -- shards


def shard(files: list[tuple[str, list[tuple[str, int, int, int]]]], flags: int = DESCRIBED | VERIFIED, end: bytes = END) -> bytes:
    body = TAG + struct.pack("<QQ", 2, 0)
    for sha256, terms in files:
        body += bytes(32) + struct.pack("<IIQ", flags, len(terms), 0)
        body += b"".join(raw(name) + struct.pack("<IIII", 0, size, start, stop) for name, size, start, stop in terms)
        body += bytes(48) * len(terms) if flags & VERIFIED else b""
        body += raw(sha256) + bytes(16) if flags & DESCRIBED else b""
    return body + end.ljust(48, b"\0")


def read(data: bytes, cuts: int = 1000) -> list[ShardFile]:
    scanner = ShardScanner()
    for at in range(0, len(data), cuts):
        scanner.feed(data[at : at + cuts])
    return scanner.finish()


def digests() -> Iterator[str]:
    return (f"{n:016x}" * 4 for n in range(1, 100))


@pytest.mark.parametrize("cuts", [1, 7, 48, 49, 100_000])
@pytest.mark.parametrize("flags", [DESCRIBED, DESCRIBED | VERIFIED])
def test_shard_lists_its_files_and_terms(cuts: int, flags: int) -> None:
    """Their digests, sizes and terms; an empty file has none; what follows the list is not looked at."""
    a, b, c = list(digests())[:3]
    made = shard([(a, [(b, 10, 0, 2), (c, 5, 3, 4)]), (b, []), (c, [(a, 7, 1, 2)])], flags) + b"\xee" * 500
    found = read(made, cuts)
    assert [(f.sha256, f.size) for f in found] == [(a, 15), (b, 0), (c, 7)]
    assert [(t.block, t.size, t.start, t.stop) for t in found[0].terms()] == [(b, 10, 0, 2), (c, 5, 3, 4)]
    assert hash_name(raw(a)) == a


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "ends before"),
        (TAG, "ends before"),
        (bytes(48), "does not begin"),
        (TAG + struct.pack("<QQ", 1, 0), "version 1"),
        (TAG + struct.pack("<QQ", 2**64 - 1, 0), "version 18446744073709551615"),
        (shard([])[:-1], "ends before"),
        (shard([("a" * 64, [("b" * 64, 1, 0, 1)])])[:-60], "ends before"),
        (shard([("a" * 64, [])], VERIFIED), "no sha256"),
        (TAG + struct.pack("<QQ", 2, 0) + bytes(32) + struct.pack("<IIQ", DESCRIBED, 2**32 - 1, 0), "more than 10000 files"),
        (shard([("a" * 64, [])] * 10_001), "more than 10000 files"),
    ],
)
def test_invalid_shard_is_refused(data: bytes, word: str) -> None:
    assert word in refused("xet.shard", read, data)


def test_shard_beyond_its_maximum_size_is_refused() -> None:
    scanner = ShardScanner()
    scanner.feed(shard([]))
    for _ in range(63):
        scanner.feed(bytes(2**20))
    assert "more than 67108864 bytes" in refused("xet.shard", scanner.feed, bytes(2**20))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([b"", TAG + struct.pack("<QQ", 2, 0), chunk(b"x" * 50, LZ4)]))
def test_noise_is_refused_by_name(noise: bytes, start: bytes) -> None:
    """Whatever comes, it is a block, a shard, or refused as none: no other error comes of it."""
    for act in (unpacked, read):
        with suppress(XetError):
            act(start + noise)
