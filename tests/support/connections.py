"""Counts database connections in use. None may be held while bytes are read, hashed or computed: other requests wait for it."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Pool, event

from app.blobs.store import BlobStore
from app.core.source import Source
from app.runtime import Runtime
from app.services.artifacts.artifacts import Artifacts

REQUESTS = ("AnyIO worker thread", "MainThread")  # prefixes of the names of threads that answer requests


class ConnectionsInUse:
    """Counts the connections that requests took from a pool and have not returned; those of background tasks are not counted.

    Args:
        pool: the pool of the registry's engine.
    """

    def __init__(self, pool: Pool) -> None:
        self._lock, self._taken = threading.Lock(), set[int]()
        event.listen(pool, "checkout", self._checkout)
        event.listen(pool, "checkin", self._checkin)

    def count(self) -> int:
        with self._lock:
            return len(self._taken)

    def _checkout(self, _: Any, record: Any, __: Any) -> None:
        if threading.current_thread().name.startswith(REQUESTS):
            with self._lock:
                self._taken.add(id(record))

    def _checkin(self, _: Any, record: Any) -> None:
        with self._lock:
            self._taken.discard(id(record))


class WatchedBlobs:
    """A blob store that records how many connections are in use whenever it verifies, opens or reads bytes.

    Attributes:
        seen: one pair (operation, connections in use) per operation; operations are "promote", "open" and "read".
    """

    def __init__(self, blobs: BlobStore, in_use: ConnectionsInUse) -> None:
        self._blobs, self._in_use = blobs, in_use
        self.seen: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    def promote(self, *arguments: Any) -> None:
        self.note("promote")
        self._blobs.promote(*arguments)

    def open(self, files: Mapping[str, str]) -> Source:
        self.note("open")
        return _WatchedSource(self._blobs.open(files), self)

    def note(self, operation: str) -> None:
        """Records an operation and the number of connections in use now."""
        self.seen.append((operation, self._in_use.count()))

    def held(self) -> list[tuple[str, int]]:
        """Returns the operations during which a connection was in use."""
        return [(operation, count) for operation, count in self.seen if count]


class _WatchedSource:
    def __init__(self, source: Source, watched: WatchedBlobs) -> None:
        self._source, self._watched = source, watched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        self._watched.note("read")
        self._source.read_into(path, offset, buffer)


@contextmanager
def watched(runtime: Runtime) -> Iterator[WatchedBlobs]:
    """Makes a running registry read its bytes through a `WatchedBlobs`, with empty caches of manifests and plans."""
    with runtime.read() as uow:
        in_use = ConnectionsInUse(uow.session.get_bind().engine.pool)
    tools = runtime.tools
    blobs = WatchedBlobs(tools.blobs, in_use)
    runtime.tools = replace(tools, blobs=blobs, artifacts=Artifacts(blobs))
    try:
        yield blobs
    finally:
        runtime.tools = tools
