"""Retention: what has ended is deleted after a while, in bounded batches, so that nobody waits long for any of them."""

import datetime as dt
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from sqlalchemy.orm import Session

from app.db import installation
from app.db import retention as rows
from app.db.base import clock
from app.services.uow import UnitOfWork

BATCH = 500
# How many batches of a noun one run deletes at most; the next run, an hour later, goes on.
BATCHES = 200
# The fact that says how many rows were deleted since the installation began, by noun.
FACT = "retention"

Begin = Callable[[], AbstractContextManager[UnitOfWork]]


@dataclass(frozen=True)
class Retention:
    """For how many days rows are kept that have ended; 0 keeps them for ever.

    Attributes:
        jobs: finished jobs, with all that the engine recorded of them.
        imports: refused, cancelled and repeated imports; one that became a version is its provenance and stays, without
            the record of who asked for it.
        discarded: drafts that were discarded.
        idempotency_keys: answers to requests with an Idempotency-Key.
    """

    jobs: int = 0
    imports: int = 0
    discarded: int = 0
    idempotency_keys: int = 0


def prune(read: Begin, write: Begin, keep: Retention) -> dict[str, int]:
    """Deletes what is older than it is kept; how many of each noun.

    Args:
        read: opens a unit of work that reads.
        write: opens one that writes; one for each batch.
        keep: for how long.
    """

    def rows_of(delete: Callable[[Session, dt.datetime, int], int], before: dt.datetime) -> int:
        with write() as uow:
            return delete(uow.session, before, BATCH)

    def jobs_of(before: dt.datetime) -> int:
        # The engine deletes through its own connection: none of ours may hold SQLite's write lock meanwhile.
        with read() as uow:
            queue, found = uow.tools.jobs, uow.tools.jobs.finished_before(uow.session, before, BATCH)
        queue.delete(found)
        return len(found)

    deleted: dict[str, Callable[[dt.datetime], int]] = {
        "jobs": jobs_of,
        "imports": partial(rows_of, rows.imports),
        "discarded": partial(rows_of, rows.discarded),
        "idempotency_keys": partial(rows_of, rows.idempotency_keys),
    }
    with read() as uow:
        present = clock(uow.session)
    counts = dict.fromkeys(deleted, 0)
    for noun, delete in deleted.items():
        if days := getattr(keep, noun):
            before = present - dt.timedelta(days=days)
            counts[noun] = sum(takewhile(bool, (delete(before) for _ in range(BATCHES))))
    _remember(write, counts)
    return counts


def totals(uow: UnitOfWork) -> dict[str, int]:
    """How many rows were deleted since the installation began, by noun."""
    return dict.fromkeys(Retention.__dataclass_fields__, 0) | (installation.read(uow.session, FACT) or {})


def _remember(write: Begin, counts: dict[str, int]) -> None:
    if any(counts.values()):
        with write() as uow:
            before = totals(uow)
            installation.write(uow.session, FACT, {noun: before[noun] + count for noun, count in counts.items()})
