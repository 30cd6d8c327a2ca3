"""Where bytes come from: a protocol for ranged reads, and the local directory behind it."""

import errno
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from app.core.confined import READ, OutsideError, open_beneath
from app.core.errors import CheckpointError
from app.core.safetensors_header import ANY_HEADER, Header, HeaderLimits, parse_header, parse_length


class FileStat(NamedTuple):
    """The identity of a file, which shows whether it is still the same file with the same content.

    Attributes:
        size: in bytes.
        mtime_ns: the modification time, which users who may write the file can set back.
        inode: the inode number in the file system.
        ctime_ns: the change time, which the system sets and users cannot set back; None if it was not recorded.
        device: the id of the file system, stable across restarts if the file system provides such an id; None if it was not
            recorded.
    """

    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int | None = None
    device: int | None = None

    def differing(self, found: Self) -> list[str]:
        """Returns the names of the recorded fields whose values differ in the file that was found."""
        pairs = zip(self._fields, self, found, strict=True)
        return [name for name, mine, its in pairs if mine is not None and its is not None and mine != its]


class Source(Protocol):
    """Ranged reads of named files; safe to use from several threads."""

    def size(self, path: str) -> int:
        """Size of a file in bytes."""

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        """Fills the whole buffer from the file at `offset`; raises `CheckpointError` when it cannot."""

    def close(self) -> None:
        """Releases what the source holds open."""


class DirectorySource:
    """Files below a local directory, opened once each.

    Args:
        root: the directory.
        expected: if given, only these paths can be read, and a file whose identity differs is refused when it is opened and
            after each read: a registered release is served exactly as registered, or not at all.
        locations: absolute locations of paths that do not lie at `root / path` (content-addressed copies).
        beneath: if given, files are opened only beneath these directories (real paths), even if links change in the meantime.
    """

    def __init__(
        self,
        root: Path,
        expected: Mapping[str, FileStat] | None = None,
        locations: Mapping[str, Path] | None = None,
        beneath: Sequence[Path] | None = None,
    ) -> None:
        self._root, self._beneath = root, beneath
        self._expected = expected
        self._locations = locations or {}
        self._lock = threading.Lock()
        self._files: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def size(self, path: str) -> int:
        return os.fstat(self.descriptor(path)).st_size

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        descriptor, done = self.descriptor(path), 0
        while done < len(buffer):
            try:
                count = os.preadv(descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise CheckpointError("checkpoint.changed", path=path, reason=f"it cannot be read: {error.strerror}") from None
            if count == 0:
                raise CheckpointError("checkpoint.changed", path=path, reason="it became shorter while it was read")
            done += count
        if self._expected is not None:
            found = os.fstat(descriptor)
            # A file that was opened as registered stays readable after another file replaces it; the replacement changes the
            # ctime of the open one, so ctime is ignored then.
            known = _stat_of(found)
            self._require_same(path, known if found.st_nlink else known._replace(ctime_ns=None))

    def descriptor(self, path: str) -> int:
        """The open file descriptor of a path (owned by the source)."""
        with self._lock:
            if path not in self._files:
                self._files[path] = self._open(path)
            return self._files[path]

    def close(self) -> None:
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])

    def _open(self, path: str) -> int:
        if self._expected is not None and path not in self._expected:
            raise CheckpointError("checkpoint.missing_file", path=path)
        location = self._locations.get(path, self._root / path)
        try:
            descriptor = os.open(location, READ) if self._beneath is None else open_beneath(location, self._beneath)
        except OutsideError:
            raise CheckpointError("checkpoint.link", path=path) from None
        except OSError as error:
            if self._expected is not None:
                raise CheckpointError("checkpoint.changed", path=path, reason=error.strerror) from None
            if error.errno in (errno.EACCES, errno.EPERM):
                raise CheckpointError("checkpoint.unreadable", path=path, reason=error.strerror) from None
            raise CheckpointError("checkpoint.missing_file", path=path) from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise CheckpointError("checkpoint.changed", path=path, reason="it is not a file")
        if self._expected is not None:
            try:
                self._require_same(path, stat_of(descriptor))
            except CheckpointError:
                os.close(descriptor)
                raise
        return descriptor

    def _require_same(self, path: str, found: FileStat) -> None:
        assert self._expected is not None  # noqa: S101  the callers checked it
        if names := self._expected[path].differing(found):
            raise CheckpointError("checkpoint.changed", path=path, reason=f"{', '.join(names)} differ")


def stat_of(target: int | Path) -> FileStat:
    """The identity of a file, by descriptor or path (links followed)."""
    return _stat_of(os.stat(target))._replace(device=os.statvfs(target).f_fsid)


def _stat_of(found: os.stat_result) -> FileStat:
    """Returns the fields that `stat` provides; the device is omitted, because an open file's file system does not change."""
    return FileStat(found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns)


def read_range(source: Source, path: str, offset: int, length: int) -> bytearray:
    """Reads `length` bytes at `offset` into a new buffer."""
    buffer = bytearray(length)
    source.read_into(path, offset, memoryview(buffer))
    return buffer


def read_header(source: Source, path: str, limits: HeaderLimits = ANY_HEADER) -> Header:
    """Reads and validates the safetensors header of a file.

    Raises:
        HeaderError: any header.* code.
    """
    size = source.size(path)
    length = parse_length(bytes(read_range(source, path, 0, min(8, size))), path, size, limits)
    return parse_header(bytes(read_range(source, path, 8, length)), path, size, limits)
