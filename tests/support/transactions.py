"""Counts the transactions that requests make on a registry's database, and the bytes that a blob store writes and hashes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from sqlalchemy import event

from app.blobs.store import BlobStore
from app.runtime import Runtime
from tests.support.connections import REQUESTS

# Tables that a transaction reads which only finds out who sends a request; one that only asks the clock checks a signature.
AUTHENTICATION = ("FROM tokens", "current_timestamp", "CURRENT_TIMESTAMP", "now()", "strftime", "julianday")


@dataclass
class Transactions:
    """The statements of each transaction of requests, in order of their ends; those of background tasks are not counted."""

    ended: list[list[str]] = field(default_factory=list)
    _open: dict[int, list[str]] = field(default_factory=dict)

    def total(self) -> int:
        return len(self.ended)

    def of_use_cases(self) -> list[list[str]]:
        """Those that do more than authenticate a request."""
        return [made for made in self.ended if not all(any(mark in text for mark in AUTHENTICATION) for text in made)]

    def ran(self, connection: Any, _: Any, statement: str, *__: Any) -> None:
        if threading.current_thread().name.startswith(REQUESTS) and not statement.startswith("BEGIN"):
            self._open.setdefault(id(connection), []).append(statement)

    def end(self, connection: Any) -> None:
        if made := self._open.pop(id(connection), None):
            self.ended.append(made)


@contextmanager
def counted(runtime: Runtime) -> Iterator[Transactions]:
    """Counts transactions of a running registry within the block."""
    with runtime.read() as reads, runtime.write() as writes:
        engines = {uow.session.get_bind().engine for uow in (reads, writes)}
    found = Transactions()
    heard = {"before_cursor_execute": found.ran, "commit": found.end, "rollback": found.end}
    for engine, (name, listener) in product(engines, heard.items()):
        event.listen(engine, name, listener)
    try:
        yield found
    finally:
        for engine, (name, listener) in product(engines, heard.items()):
            event.remove(engine, name, listener)


class CountedBlobs:
    """A blob store that counts bytes.

    Attributes:
        appended: bytes that were written to staged files.
        hashed_again: sizes in bytes of staged files that were read and hashed when they were promoted.
    """

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs, self.appended, self.hashed_again = blobs, 0, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    def append(self, upload: str, name: str, offset: int, data: bytes) -> int:
        self.appended += len(data)
        return self._blobs.append(upload, name, offset, data)

    def promote(self, upload: str, name: str, digest: str, path: str, verified: bool = False) -> None:
        if not verified:
            self.hashed_again.append(self._blobs.received(upload, name))
        self._blobs.promote(upload, name, digest, path, verified)


@contextmanager
def counted_bytes(runtime: Runtime) -> Iterator[CountedBlobs]:
    """Makes a running registry write its bytes through a `CountedBlobs` within the block."""
    tools, blobs = runtime.tools, CountedBlobs(runtime.tools.blobs)
    runtime.tools = replace(tools, blobs=blobs)
    try:
        yield blobs
    finally:
        runtime.tools = tools
