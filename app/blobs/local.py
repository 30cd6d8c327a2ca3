"""Blobs in a local directory."""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from app.blobs import layout
from app.blobs.error_counts import noted
from app.blobs.keyed_lock import KeyedLocks
from app.blobs.locations import DirectorySink, FilesLocation, LocalStore
from app.blobs.store import BlobInfo
from app.core.fsync import sync
from app.core.source import DirectorySource, Source
from app.domain.errors import DomainError


class LocalBlobs:
    """`app.blobs.store.BlobStore` below one directory."""

    write_bytes = 2**20
    direct = None

    def __init__(self, root: Path) -> None:
        self._root = root
        self._turns = KeyedLocks()
        for folder in ("sha256", "staging"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self._clock = root / "clock"

    def check(self) -> None:
        for folder in ("sha256", "staging"):
            os.stat(self._root / folder)
        probe = self._root / layout.PROBE / f"{os.getpid()}-{secrets.token_hex(4)}"
        with _disk_errors():
            probe.parent.mkdir(exist_ok=True)  # never its parents: a directory that is gone is not made anew
            try:
                probe.write_bytes(b"x")
                if probe.read_bytes() != b"x":
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
            finally:
                probe.unlink(missing_ok=True)

    def received(self, upload: str, name: str) -> int:
        try:
            return self._staged(upload, name).stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, upload: str, name: str, offset: int, data: bytes) -> int:
        path = self._staged(upload, name)
        # In turn: two appends at one offset would both pass the check, and one that was under way while the file was
        # promoted would write into bytes that have been verified.
        with self._turns.take(upload), _disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _alone_with(path) as descriptor:
                received = os.fstat(descriptor).st_size
                if received != offset:
                    raise DomainError("upload.offset", path=name, received=received, offset=offset)
                written = 0
                while written < len(data):
                    written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)
        return offset + len(data)

    def sync_staged(self, upload: str, name: str) -> None:
        staged = self._staged(upload, name)
        if staged.exists():  # nothing is staged for an empty file
            sync(staged)
            sync(staged.parent)

    def staged(self, upload: str, name: str) -> Source:
        return DirectorySource(self._root, None, {"": self._staged(upload, name).resolve()})

    def promote(self, upload: str, name: str, digest: str, path: str, verified: bool = False) -> None:
        staged = self._staged(upload, name)
        if not staged.exists():
            self.append(upload, name, 0, b"")
        with self._turns.take(upload), _alone_with(staged) as descriptor:
            # A file without bytes is always hashed: it may have been promoted or discarded before, and created again here.
            actual = digest if verified and os.fstat(descriptor).st_size else _digest(staged)
            if actual != digest:
                staged.unlink(missing_ok=True)
                raise DomainError("upload.digest", path=path, actual=actual, expected=digest)
            self._publish(staged, digest)

    def adopt(self, upload: str, files: Mapping[str, str]) -> None:
        for path, digest in files.items():
            staged = self._staged(upload, path)
            if staged.is_file():
                self._publish(staged, digest)
            elif self.size(digest) is None:  # it was not taken before either
                raise DomainError("blob.missing", digest=digest)

    def discard(self, upload: str) -> None:
        shutil.rmtree(self._root / "staging" / upload, ignore_errors=True)

    def size(self, digest: str) -> int | None:
        try:
            return self._blob(digest).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, files: Mapping[str, str]) -> Source:
        # Nothing is expected of the files but their digest: the same bytes may be published again under who reads them.
        return DirectorySource(self._root, None, self._locations(files))

    def location(self, files: Mapping[str, str]) -> FilesLocation:
        return FilesLocation({path: str(file) for path, file in self._locations(files).items()})

    def where(self) -> LocalStore:
        return LocalStore(str(self._root.resolve()))

    def sink(self, upload: str) -> DirectorySink:
        directory = self._root / "staging" / upload
        directory.mkdir(parents=True, exist_ok=True)
        return DirectorySink(str(directory.resolve()))

    def digests(self) -> Iterator[tuple[str, float]]:
        yield from (entry[:2] for entry in self.entries())

    def entries(self) -> Iterator[BlobInfo]:
        present = self._present()
        for path in (self._root / "sha256").glob("*/*"):
            if len(path.name) == 64 and (found := _stat(path)):
                yield BlobInfo(path.name, present - found.st_mtime, found.st_size)

    def uploads(self) -> Iterator[tuple[str, float]]:
        present = self._present()
        for path in (self._root / "staging").iterdir():
            try:
                newest = max((p.stat().st_mtime for p in path.rglob("*")), default=path.stat().st_mtime)
            except FileNotFoundError:  # promoted or discarded just now: whatever it is, it is not abandoned
                continue
            yield path.name, present - newest

    def delete(self, digest: str, older_than: float = float("-inf")) -> bool:
        path = self._blob(digest)
        with self._turns.take(digest):  # not between the look and the removal must the same bytes arrive again
            try:
                if self._present() - path.stat().st_mtime <= older_than:
                    return False
                path.unlink()
            except FileNotFoundError:
                return False
        return True

    def erase(self, digest: str, older_than: float = float("-inf")) -> bool:
        removed = self.delete(digest, older_than)
        if removed:
            sync(self._blob(digest).parent)  # it does not come back with a power failure
        return removed

    def erase_upload(self, upload: str) -> None:
        self.discard(upload)

    def traces(self, digest: str) -> int:
        return int(self.size(digest) is not None)

    def _present(self) -> float:
        """The present by the clock that dates files here: where the directory is another machine's, that machine's."""
        try:
            self._clock.touch(0o600)
            return self._clock.stat().st_mtime
        except OSError:  # it may only be read
            return time.time()

    def _locations(self, files: Mapping[str, str]) -> dict[str, Path]:
        for digest in files.values():
            if self.size(digest) is None:
                raise DomainError("blob.missing", digest=digest)
        return {path: self._blob(digest).resolve() for path, digest in files.items()}

    def _publish(self, staged: Path, digest: str) -> None:
        """Durable before visible: the file is synced, then renamed, then the folder is synced."""
        target = self._blob(digest)
        with _disk_errors():
            target.parent.mkdir(exist_ok=True)
            os.utime(staged)  # young before it is visible
            sync(staged)
            with self._turns.take(digest):
                os.replace(staged, target)
            os.chmod(target, 0o400)  # after: whoever waits for the staged file must be able to see that it is gone
            sync(target.parent)

    def _blob(self, digest: str) -> Path:
        return self._root / layout.blob(digest)

    def _staged(self, upload: str, name: str) -> Path:
        return self._root / layout.staged(upload, name)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # removed just now
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _alone_with(path: Path) -> Iterator[int]:
    """A staged file, opened for writing and locked against the other processes of a service that has several."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(path, descriptor):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a file still is where it was opened: it may have been promoted or dropped while we waited for it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise noted(DomainError("server.storage_full")) from None
        raise
