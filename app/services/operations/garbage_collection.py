"""Bytes that nothing names.

They are removed in two steps, because looking for them takes long. First what nothing names is looked for, while others go on.
Then a few at a time are looked at again and removed, while nobody may begin to name bytes (`UnitOfWork.hold_gc`): what was
named or arrived again meanwhile stays. A draft names its bytes from its beginning on, so what is published was named all along.

The first step goes through everything once, and keeps what it finds in a temporary file; the second asks only what was begun
since. So neither memory nor time grows with the square of what there is.
"""

import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from app.db import patches, pushes, release_downloads, releases
from app.db.base import clock
from app.db.locks import BYTES, try_advisory_lock
from app.services.operations.digest_spill import Named, Scratch
from app.services.unit_of_work import Begin, UnitOfWork

# Bytes exist for a moment before the row that names them is committed.
BLOB_GRACE = dt.timedelta(hours=1)
# So much longer than any transaction: what was begun before it is known, by the database's clock, which dates drafts.
OVERLAP = dt.timedelta(hours=1)
# So many bytes are looked at again and removed in one transaction, in which nobody else may name bytes.
BATCH = 100
TRIES, PAUSE_SECONDS = 40, 0.25


@dataclass(frozen=True)
class Since:
    """What a look took for known: drafts begun before a moment, and these manifests with what they name."""

    moment: dt.datetime
    manifests: frozenset[str]


class Garbage:
    """What a look found; to be closed.

    Attributes:
        count: how many there are.
        bytes: their sizes together.
        oldest: the age of the oldest in seconds; None where there is none.
        since: for the second step.
    """

    def __init__(self, since: Since) -> None:
        self.count, self.bytes, self.since = 0, 0, since
        self.oldest: float | None = None
        self._found = Scratch()

    def add(self, digest: str, age: float, size: int) -> None:
        self._found.add([Named(digest, size, "")])
        self.count += 1
        self.bytes += size
        self.oldest = age if self.oldest is None else max(self.oldest, age)

    def batches(self) -> Iterator[dict[str, int]]:
        """Sizes by digest, a few at a time."""
        batch = dict[str, int]()
        for found in self._found:
            batch[found.digest] = found.size or 0
            if len(batch) == BATCH:
                yield batch
                batch = {}
        if batch:
            yield batch

    def __iter__(self) -> Iterator[str]:
        return (found.digest for found in self._found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._found.close()


@dataclass(frozen=True)
class Removed:
    """How many were removed, and their sizes together in bytes."""

    count: int
    bytes: int


def look(uow: UnitOfWork, grace: dt.timedelta | None = None) -> Garbage:
    """Finds bytes that nothing names, and that are too old to be on their way to a name.

    Args:
        uow: a transaction that reads.
        grace: how old; an hour where nothing is said.
    """
    least = (BLOB_GRACE if grace is None else grace).total_seconds()
    manifests = frozenset(releases.manifest_digests(uow.session))
    found = Garbage(Since(clock(uow.session) - OVERLAP, manifests))
    named = Scratch()
    try:
        named.add(Named(digest, None, "") for digest in names(uow))
        for digest, age, size in uow.tools.blobs.entries():
            if age > least and not named.names(digest):
                found.add(digest, age, size)
    except BaseException:
        found.__exit__(None, None, None)
        raise
    finally:
        named.close()
    return found


def remove(
    uow: UnitOfWork, digests: Sequence[str], since: Since | None = None, grace: dt.timedelta | None = None
) -> list[str] | None:
    """Removes bytes that still nothing names and that are still old.

    Args:
        uow: a transaction of its own that writes, and ends soon: others wait who want to name bytes.
        digests: few.
        since: of the look that found them; None: everything is asked again.
        grace: as for `look`.

    Returns:
        Those that were removed; None when somebody is just naming bytes, and it should be tried again.
    """
    if not try_advisory_lock(uow.session, BYTES):
        return None
    free = dict.fromkeys(digests)
    for digest in names(uow, since):
        free.pop(digest, None)
    least = (BLOB_GRACE if grace is None else grace).total_seconds()
    return [digest for digest in free if uow.tools.blobs.delete(digest, older_than=least)]


def remove_all(write: Begin, found: Garbage, grace: dt.timedelta | None = None) -> Removed:
    """Removes what a look found, a few at a time; what is named again by then stays."""
    count = size = 0
    for batch in found.batches():
        removed = patiently(write, partial(remove, digests=list(batch), since=found.since, grace=grace)) or []
        count, size = count + len(removed), size + sum(batch[digest] for digest in removed)
    return Removed(count, size)


def patiently(write: Begin, step: Callable[[UnitOfWork], list[str] | None]) -> list[str] | None:
    """A second step, again and again while others name bytes; None where they never left off."""
    for _ in range(TRIES):
        with write() as uow:
            removed = step(uow)
        if removed is not None:
            return removed
        time.sleep(PAUSE_SECONDS)  # bytes are named in moments; those that take longer keep theirs for another hour
    return None


def names(uow: UnitOfWork, since: Since | None = None) -> Iterator[str]:
    """Digests of all bytes that something names, or that something names since a look; they repeat."""
    known = since.manifests if since else frozenset()
    yield from patches.blob_digests(uow.session, since.moment if since else None)
    yield from pushes.digests(uow.session)
    yield from releases.manifest_digests(uow.session) - known
    yield from release_downloads.digests(uow.session)
    for release in releases.copied(uow.session):
        if release.manifest not in known:
            yield from uow.tools.artifacts.manifest(release).file_digests.values()
