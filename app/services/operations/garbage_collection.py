"""Garbage collection of blobs: removes bytes that no row references and that are older than a grace period.

The store is listed page by page, and each page is compared with the table of references (`app.db.blob_refs`). Unreferenced bytes
are compared again and removed in a transaction during which no other transaction can add references (`UnitOfWork.hold_gc`), so
bytes that were referenced or uploaded again meanwhile stay. A draft references its bytes from its creation.
"""

import datetime as dt
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from app.blobs.store import BlobInfo
from app.db import blob_refs
from app.db.blob_nouns import NOUNS
from app.db.locks import BYTES, try_advisory_lock
from app.services.unit_of_work import Begin, UnitOfWork

# The grace period: bytes are stored shortly before the row that references them is committed.
BLOB_GRACE = dt.timedelta(hours=1)
# How many blobs one transaction removes; meanwhile no other transaction can add references.
BATCH = 100
# How many blobs one transaction compares with the table, and for how many rows it adds missing references.
PAGE = 500
TRIES, PAUSE_SECONDS = 40, 0.25

Delete = Callable[[UnitOfWork, str], bool]


@dataclass
class Collected:
    """What was found and what was removed: sizes in bytes, age of the oldest in seconds."""

    found: int = 0
    found_bytes: int = 0
    oldest: float | None = None
    removed: int = 0
    removed_bytes: int = 0

    def add(self, found: Collection[BlobInfo]) -> None:
        self.found += len(found)
        self.found_bytes += sum(blob.size for blob in found)
        self.oldest = max(self.oldest or 0.0, *(blob.age for blob in found))


def collect(read: Begin, write: Begin, grace: dt.timedelta | None = None, dry_run: bool = False) -> Collected:
    """Removes unreferenced bytes that are older than a grace period.

    Args:
        read: opens a transaction that reads.
        write: opens a transaction that writes.
        grace: the grace period; an hour by default.
        dry_run: only count them.
    """
    least, total = (BLOB_GRACE if grace is None else grace).total_seconds(), Collected()
    repair_references(write)
    found = unreferenced(read, least)
    while page := list(islice(found, BATCH)):
        total.add(page)
        if not dry_run:
            sizes = {blob.digest: blob.size for blob in page}
            removed = remove(write, list(sizes), lambda uow, digest: uow.tools.blobs.delete(digest, older_than=least)) or []
            total.removed += len(removed)
            total.removed_bytes += sum(sizes[digest] for digest in removed)
    return total


def unreferenced(read: Begin, least: float) -> Iterator[BlobInfo]:
    """Yields the blobs that no row references and that are older than `least` seconds."""
    with read() as uow:
        old = (blob for blob in uow.tools.blobs.entries() if blob.age > least)
    while page := list(islice(old, PAGE)):
        with read() as uow:
            referenced = blob_refs.referenced(uow.session, [blob.digest for blob in page])
        yield from (blob for blob in page if blob.digest not in referenced)


def repair_references(write: Begin) -> None:
    """Adds missing references and deletes stale ones.

    Both are left by processes of the previous version, which does not write references.
    """
    for noun in NOUNS:
        after: str | None = ""
        while after is not None:
            with write() as uow:
                after = blob_refs.register(uow.session, noun, uow.tools.artifacts.read_manifest, after, PAGE)
    with write() as uow:
        # Excludes a concurrent removal: between its two statements, the previous version may turn a row of one noun into another.
        if try_advisory_lock(uow.session, BYTES):
            blob_refs.drop_stale(uow.session)


def remove(write: Begin, digests: Collection[str], delete: Delete) -> list[str] | None:
    """Calls `try_remove`, and retries while other transactions add references; returns None if all tries failed."""
    for _ in range(TRIES):
        with write() as uow:
            removed = try_remove(uow, digests, delete)
        if removed is not None:
            return removed
        time.sleep(PAUSE_SECONDS)  # others usually finish soon; otherwise the bytes stay for another hour
    return None


def try_remove(uow: UnitOfWork, digests: Collection[str], delete: Delete) -> list[str] | None:
    """Removes those of the given blobs that no row references.

    Args:
        uow: a separate, short transaction that may write; other transactions that add references wait for it.
        digests: a small number of blobs.
        delete: deletes a blob from the store and returns whether it did.

    Returns:
        The digests that were removed; None if another transaction is adding references.
    """
    if not try_advisory_lock(uow.session, BYTES):
        return None
    for noun in NOUNS:
        blob_refs.register(uow.session, noun, uow.tools.artifacts.read_manifest)
    referenced = blob_refs.referenced(uow.session, digests)
    return [digest for digest in digests if digest not in referenced and delete(uow, digest)]
