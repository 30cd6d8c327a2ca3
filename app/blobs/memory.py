"""Blobs in memory: for tests of whatever stands on a blob store."""

import hashlib
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from app.blobs.locations import DirectorySink, FilesLocation, StoreLocation
from app.blobs.store import BlobInfo
from app.core.errors import CheckpointError
from app.core.source import Source
from app.domain.errors import DomainError


class MemoryBlobs:
    """`app.blobs.store.BlobStore` in a dictionary."""

    write_bytes = 2**20
    direct = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[str, tuple[bytes, float]] = {}
        self._staged: dict[str, dict[str, bytearray]] = {}
        self._touched: dict[str, float] = {}
        self._directories: dict[str, tempfile.TemporaryDirectory[str]] = {}

    def check(self) -> None:
        """Memory is always there."""

    def received(self, upload: str, name: str) -> int:
        with self._lock:
            return len(self._staged.get(upload, {}).get(name, b""))

    def append(self, upload: str, name: str, offset: int, data: bytes) -> int:
        with self._lock:
            held = self._staged.setdefault(upload, {}).setdefault(name, bytearray())
            if len(held) != offset:
                raise DomainError("upload.offset", path=name, received=len(held), offset=offset)
            held += data
            self._touched[upload] = time.time()
            return len(held)

    def sync_staged(self, upload: str, name: str) -> None:
        pass

    def staged(self, upload: str, name: str) -> Source:
        with self._lock:
            return MemorySource({"": bytes(self._staged.get(upload, {}).get(name, b""))})

    def promote(self, upload: str, name: str, digest: str, path: str, verified: bool = False) -> None:
        with self._lock:
            data = bytes(self._staged.get(upload, {}).pop(name, b""))
            actual = digest if verified and data else hashlib.sha256(data).hexdigest()
            if actual != digest:
                raise DomainError("upload.digest", path=path, actual=actual, expected=digest)
            self._blobs[digest] = (data, time.time())

    def adopt(self, upload: str, files: Mapping[str, str]) -> None:
        directory = Path(self.sink(upload).directory)
        for path, digest in files.items():
            if not (directory / path).is_file():
                raise DomainError("blob.missing", digest=digest)
            with self._lock:
                self._blobs[digest] = ((directory / path).read_bytes(), time.time())

    def discard(self, upload: str) -> None:
        with self._lock:
            self._staged.pop(upload, None)
            self._touched.pop(upload, None)
            if directory := self._directories.pop(upload, None):
                directory.cleanup()

    def size(self, digest: str) -> int | None:
        held = self._blobs.get(digest)
        return len(held[0]) if held else None

    def open(self, files: Mapping[str, str]) -> Source:
        for digest in files.values():
            if digest not in self._blobs:
                raise DomainError("blob.missing", digest=digest)
        return MemorySource({path: self._blobs[digest][0] for path, digest in files.items()})

    def location(self, files: Mapping[str, str]) -> FilesLocation:
        directory = Path(self.sink("location").directory)
        for digest in files.values():
            if digest not in self._blobs:
                raise DomainError("blob.missing", digest=digest)
            (directory / digest).write_bytes(self._blobs[digest][0])
        return FilesLocation({path: str(directory / digest) for path, digest in files.items()})

    def digests(self) -> Iterator[tuple[str, float]]:
        yield from (entry[:2] for entry in self.entries())

    def entries(self) -> Iterator[BlobInfo]:
        yield from [BlobInfo(digest, time.time() - made, len(data)) for digest, (data, made) in self._blobs.items()]

    def uploads(self) -> Iterator[tuple[str, float]]:
        yield from [(upload, time.time() - touched) for upload, touched in self._touched.items()]

    def delete(self, digest: str, older_than: float = float("-inf")) -> bool:
        with self._lock:
            held = self._blobs.get(digest)
            if held is None or time.time() - held[1] <= older_than:
                return False
            del self._blobs[digest]
            return True

    def erase(self, digest: str, older_than: float = float("-inf")) -> bool:
        return self.delete(digest, older_than)

    def erase_upload(self, upload: str) -> None:
        self.discard(upload)

    def traces(self, digest: str) -> int:
        return int(digest in self._blobs)

    def where(self) -> StoreLocation:
        """Raises NotImplementedError: no other process reaches this one's memory."""
        raise NotImplementedError

    def sink(self, upload: str) -> DirectorySink:
        with self._lock:
            self._touched.setdefault(upload, time.time())
            directory = self._directories.setdefault(upload, tempfile.TemporaryDirectory())
        return DirectorySink(directory.name)


class MemorySource:
    """A `Source` over bytes."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def size(self, path: str) -> int:
        return len(self._file(path))

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        part = self._file(path)[offset : offset + len(buffer)]
        if len(part) < len(buffer):
            raise CheckpointError("checkpoint.changed", path=path, reason="it became shorter while it was read")
        buffer[:] = part

    def close(self) -> None:
        """Nothing is held open."""

    def _file(self, path: str) -> bytes:
        if path not in self._files:
            raise CheckpointError("checkpoint.missing_file", path=path)
        return self._files[path]
