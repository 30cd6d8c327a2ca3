"""Xet blocks ("xorbs") and shards, as huggingface_hub uploads files with them: read piece by piece, refused where they lie.

A file is cut into chunks, chunks are packed and put one after another into blocks, and a shard says of which chunks of which
blocks each file consists, and what its sha256 is. Formats: https://huggingface.co/docs/xet (1.1), draft-denis-xet. All numbers
are little-endian. What a block is called (a Merkle hash over its chunks) is believed nowhere: names mean something within one
session of one client only, and every file is believed when its sha256 was computed here.
"""

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from app.core.errors import XetError

MAX_CHUNKS = 8192
# 64 MiB of chunks, as clients count; their headers, and a footer that says it all again, come on top of that.
MAX_BLOCK_BYTES = 64 * 2**20 + 64 * MAX_CHUNKS
MAX_CHUNK_BYTES = 128 * 2**10
MAX_SHARD_BYTES = 64 * 2**20
MAX_FILES = 10_000
MAX_TERMS = 200_000
# The maximum ratio of the size of files to that of the blocks they are assembled from, and the size up to which any ratio is
# allowed. Repeated chunks and LZ4 give a ratio of about two; a block of zeros gives a thousand.
MAX_EXPANSION = 16
ANY_EXPANSION_BYTES = 256 * 2**20
# Clients make no chunk shorter than this, except the last one of a file. Each term of a file costs a read from the store.
LEAST_CHUNK_BYTES = 8 * 2**10
ANY_TERMS = 1000
READ_BYTES = 4 * 2**20
FOOTER = b"XETBLOB"
PLAIN, LZ4, GROUPED = 0, 1, 2
HEADER_BYTES = 8

RECORD = 48
TAG = bytes.fromhex("48465265706f4d6574614461746100556967456a7b815783a5bdd95ccdd14aa9")
VERSION = 2
END = b"\xff" * 32
VERIFIED, DESCRIBED = 1 << 31, 1 << 30
_TERM = struct.Struct("<32sIIII")

Read = Callable[[int, int], bytes]


class BlockScanner:
    """Looks at the headers of a block's chunks while its bytes pass by; holds eight bytes a chunk.

    Args:
        name: what the client calls the block, for sentences.
    """

    def __init__(self, name: str) -> None:
        self._name, self._size, self._skip = name, 0, 0
        self._partial, self._headers, self._in_footer = bytearray(), bytearray(), False

    def feed(self, data: bytes) -> None:
        """Takes the next bytes, however they are cut.

        Raises:
            XetError: xet.block.
        """
        self._size += len(data)
        if self._size > MAX_BLOCK_BYTES:
            raise self._refusal(f"it has more than {MAX_BLOCK_BYTES} bytes")
        at = 0
        while at < len(data) and not self._in_footer:
            step = min(self._skip, len(data) - at)
            at, self._skip = at + step, self._skip - step
            if self._skip or at == len(data):
                continue
            missing = HEADER_BYTES - len(self._partial)
            self._partial += data[at : at + missing]
            at += missing
            if len(self._partial) == HEADER_BYTES:
                self._header(bytes(self._partial))
                self._partial.clear()

    def finish(self) -> bytes:
        """The headers of all chunks, one after another: what `Block` reads the block by.

        Raises:
            XetError: xet.block, where it ends within a chunk or has none.
        """
        if self._skip or self._partial:
            raise self._refusal("it ends within a chunk")
        if not self._headers:
            raise self._refusal("it has no chunk")
        return bytes(self._headers)

    def _header(self, header: bytes) -> None:
        if header[:7] == FOOTER:  # lists what the headers said; nothing that follows is a chunk
            self._in_footer = True
            return
        packed, scheme, plain = _parse(header)
        if header[0] != 0:
            raise self._refusal(f"a chunk is of version {header[0]}")
        if scheme not in (PLAIN, LZ4, GROUPED):
            raise self._refusal(f"a chunk is packed by scheme {scheme}, which is not known here")
        if not 0 < plain <= MAX_CHUNK_BYTES:
            raise self._refusal(f"a chunk says that it has {plain} bytes; a chunk has 1 to {MAX_CHUNK_BYTES}")
        if not 0 < packed <= 2 * MAX_CHUNK_BYTES or (scheme == PLAIN and packed != plain):
            raise self._refusal(f"a chunk of {plain} bytes says that it takes {packed}")
        if len(self._headers) >= MAX_CHUNKS * HEADER_BYTES:
            raise self._refusal(f"it has more than {MAX_CHUNKS} chunks")
        self._headers += header
        self._skip = packed

    def _refusal(self, reason: str) -> XetError:
        return XetError("xet.block", block=self._name, reason=reason)


class Block:
    """The chunks of a block that was scanned.

    Args:
        name: for sentences.
        headers: what `BlockScanner.finish` returned.
    """

    def __init__(self, name: str, headers: bytes) -> None:
        parsed = [_parse(headers[at : at + HEADER_BYTES]) for at in range(0, len(headers), HEADER_BYTES)]
        self._name = name
        self._packed = array("I", (packed for packed, _, _ in parsed))
        self._schemes = bytes(scheme for _, scheme, _ in parsed)
        self._starts = array("I", accumulate((HEADER_BYTES + packed for packed in self._packed), initial=0))
        self._plain = array("Q", accumulate((plain for _, _, plain in parsed), initial=0))

    def size(self, start: int, stop: int) -> int:
        """How many bytes of a file chunks `start` to `stop` (not included) hold.

        Raises:
            XetError: xet.shard, where there are no such chunks.
        """
        if not 0 <= start < stop <= len(self._packed):
            reason = f"it wants chunks {start} to {stop} of block {self._name}, which has {len(self._packed)}"
            raise XetError("xet.shard", reason=reason)
        return self._plain[stop] - self._plain[start]

    def chunks(self, read: Read, start: int, stop: int) -> Iterator[bytes]:
        """The bytes of chunks `start` to `stop` (not included), a chunk at a time.

        Args:
            read: gives so many bytes of the block at an offset.
            start, stop: which `size` allowed.

        Raises:
            XetError: xet.block.
        """
        while start < stop:
            upto = start + 1
            while upto < stop and self._starts[upto + 1] - self._starts[start] <= READ_BYTES:
                upto += 1
            window = memoryview(read(self._starts[start], self._starts[upto] - self._starts[start]))
            for number in range(start, upto):
                at = self._starts[number] - self._starts[start] + HEADER_BYTES
                yield self._unpack(number, window[at : at + self._packed[number]])
            start = upto

    def _unpack(self, number: int, packed: memoryview) -> bytes:
        scheme, size = self._schemes[number], self._plain[number + 1] - self._plain[number]
        plain = bytes(packed) if scheme == PLAIN else _unpack_lz4(packed, size)
        if plain is None or len(plain) != size:
            raise XetError("xet.block", block=self._name, reason=f"chunk {number} does not unpack to the {size} bytes it says")
        return _ungroup(plain) if scheme == GROUPED else plain


@dataclass(frozen=True)
class Term:
    """A part of a file: chunks of a block, from `start` to `stop` (not included), together `size` bytes."""

    block: str
    size: int
    start: int
    stop: int


@dataclass(frozen=True)
class ShardFile:
    """A file as a shard describes it: its sha256 in hex, its size in bytes, and its terms."""

    sha256: str
    size: int
    records: bytes

    def terms(self) -> Iterator[Term]:
        for name, _, size, start, stop in _TERM.iter_unpack(self.records):
            yield Term(hash_name(name), size, start, stop)


class ShardScanner:
    """Reads the files of a shard while its bytes pass by; what follows them (an index of blocks) is of no use here."""

    def __init__(self) -> None:
        self.files: list[ShardFile] = []
        self._size = self._terms_left = self._skip = self._total_terms = 0
        self._flags, self._records, self._partial = 0, bytearray(), bytearray()
        self._next: Callable[[bytes], None] | None = self._header

    def feed(self, data: bytes) -> None:
        """Takes the next bytes, however they are cut.

        Raises:
            XetError: xet.shard.
        """
        self._size += len(data)
        if self._size > MAX_SHARD_BYTES:
            raise _shard(f"it has more than {MAX_SHARD_BYTES} bytes")
        view, at = memoryview(data), 0
        while self._next and at < len(data):
            missing = RECORD - len(self._partial)
            self._partial += view[at : at + missing]
            at += missing
            if len(self._partial) == RECORD:
                self._next(bytes(self._partial))
                self._partial.clear()

    def finish(self) -> list[ShardFile]:
        """The files.

        Raises:
            XetError: xet.shard, where it ends before they do.
        """
        if self._next:
            raise _shard("it ends before its list of files does")
        return self.files

    def _header(self, record: bytes) -> None:
        if record[:32] != TAG:
            raise _shard("it does not begin as a shard does")
        version = int.from_bytes(record[32:40], "little")
        if version != VERSION:
            raise _shard(f"it is of version {version}; {VERSION} is known here")
        self._next = self._file

    def _file(self, record: bytes) -> None:
        if record[:32] == END:
            self._next = None
            return
        self._flags, count = struct.unpack_from("<II", record, 32)
        self._total_terms += count
        if len(self.files) >= MAX_FILES or self._total_terms > MAX_TERMS:
            raise _shard(f"it has more than {MAX_FILES} files, or {MAX_TERMS} parts of files")
        if not self._flags & DESCRIBED:
            raise _shard("it names no sha256 of a file")
        self._records.clear()
        self._terms_left, self._skip = count, count if self._flags & VERIFIED else 0
        self._next = self._term if count else self._described

    def _term(self, record: bytes) -> None:
        self._records += record
        self._terms_left -= 1
        if not self._terms_left:
            self._next = self._verification if self._skip else self._described

    def _verification(self, _: bytes) -> None:
        """Hashes of chunks; the file's sha256 says more."""
        self._skip -= 1
        if not self._skip:
            self._next = self._described

    def _described(self, record: bytes) -> None:
        records = bytes(self._records)
        size = sum(fields[2] for fields in _TERM.iter_unpack(records))
        self.files.append(ShardFile(hash_name(record[:32]), size, records))
        self._next = self._file


def check_effort(files: Sequence[ShardFile], sent: int) -> None:
    """Refuses a shard that demands far more work than is justified by the bytes uploaded for it.

    Args:
        files: the files that the shard describes.
        sent: the total size in bytes of the blocks that it names.

    Raises:
        XetError: xet.shard.
    """
    total = sum(file.size for file in files)
    if total > max(ANY_EXPANSION_BYTES, MAX_EXPANSION * sent):
        raise _shard(
            f"its files have {total} bytes, more than {MAX_EXPANSION} times the {sent} bytes of the blocks that were sent"
        )
    terms = sum(len(file.records) for file in files) // RECORD
    if terms > ANY_TERMS + total // LEAST_CHUNK_BYTES:
        raise _shard(f"its files of {total} bytes are in {terms} parts")


def hash_name(raw: bytes) -> str:
    """A hash of 32 bytes as addresses spell it: four numbers of 64 bits in hex, each with its first byte last."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def _parse(header: bytes) -> tuple[int, int, int]:
    """Packed size, scheme and plain size of a chunk's header: version (1 byte), packed (3), scheme (1), plain (3)."""
    return int.from_bytes(header[1:4], "little"), header[4], int.from_bytes(header[5:8], "little")


def _unpack_lz4(packed: memoryview, size: int) -> bytes | None:
    """One whole LZ4 frame of so many bytes; None where it is none. Never makes more than one byte too many."""
    from lz4.frame import LZ4FrameDecompressor  # noqa: PLC0415  only pushes need it

    decompressor = LZ4FrameDecompressor()
    try:
        plain: bytes = decompressor.decompress(packed, max_length=size + 1)
        if not decompressor.eof and len(plain) == size:  # the frame's end mark may still be to come
            plain += decompressor.decompress(b"", max_length=1)
    except (RuntimeError, ValueError, EOFError):
        return None
    return plain if decompressor.eof and not decompressor.unused_data else None


def _ungroup(grouped: bytes) -> bytes:
    """Puts bytes back that were grouped by their place in words of four: first all first ones, then all second ones."""
    plain, at = bytearray(len(grouped)), 0
    for place in range(4):
        count = (len(grouped) - place + 3) // 4
        plain[place::4] = grouped[at : at + count]
        at += count
    return bytes(plain)


def _shard(reason: str) -> XetError:
    return XetError("xet.shard", reason=reason)
