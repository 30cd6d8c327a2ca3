"""A source that can be taken away from whoever reads it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from app.core.errors import CheckpointError
from app.core.source import Source


class RevocableSource:
    """Passes on to another `Source` until it is revoked.

    Closing a source under a thread that reads it could give that thread another file's bytes, because the system uses
    descriptors again: so what is under way ends first, and only then is the source closed.
    """

    def __init__(self, source: Source) -> None:
        self._source, self._lock = source, threading.Lock()
        self._readers, self._revoked = 0, False

    def size(self, path: str) -> int:
        with self._reading(path):
            return self._source.size(path)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        with self._reading(path):
            self._source.read_into(path, offset, buffer)

    def revoke(self) -> None:
        """Every later read is refused (checkpoint.changed); closed at once, or when the reads that are under way have ended."""
        with self._lock:
            self._revoked = True
            idle = not self._readers
        if idle:
            self._source.close()

    def close(self) -> None:
        self._source.close()

    @contextmanager
    def _reading(self, path: str) -> Iterator[None]:
        with self._lock:
            if self._revoked:
                raise CheckpointError("checkpoint.changed", path=path, reason="it was taken away")
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                last = self._revoked and not self._readers
            if last:
                self._source.close()
