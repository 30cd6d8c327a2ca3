"""Retention: finished rows are deleted when they are old enough, in bounded batches, so that no batch holds locks for long."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

from sqlalchemy.orm import Session

from app.db import installation
from app.db import retention as rows
from app.db.base import clock
from app.services.jobs.kinds import kinds_of
from app.services.unit_of_work import Begin, UnitOfWork

BATCH = 500
# The maximum number of batches per noun in one run; the next run, an hour later, continues.
BATCHES = 200
# The installation fact that counts the rows deleted since the installation began, by noun.
FACT = "retention"


@dataclass(frozen=True)
class Retention:
    """For how many days finished rows are kept; 0 keeps them for ever.

    Attributes:
        jobs: finished jobs, with everything that the engine recorded about them.
        imports: refused, cancelled and repeated imports. An import that created a version stays as its provenance, but its
            requester is cleared.
        discarded: drafts that were discarded.
        idempotency_keys: answers to requests with an Idempotency-Key.
    """

    jobs: int = 0
    imports: int = 0
    discarded: int = 0
    idempotency_keys: int = 0


def prune(read: Begin, write: Begin, keep: Retention) -> dict[str, int]:
    """Deletes rows that are past their retention period; returns how many, by noun.

    Args:
        read: opens a read-only unit of work.
        write: opens a unit of work that writes, once for each batch.
        keep: the retention periods.
    """

    def rows_of(delete: Callable[[Session, dt.datetime, int], int], before: dt.datetime) -> int:
        with write() as uow:
            return delete(uow.session, before, BATCH)

    def jobs_of(before: dt.datetime) -> int:
        # The engine deletes through its own connection, so none of ours may hold SQLite's write lock meanwhile.
        with read() as uow:
            queue, found = uow.tools.jobs, uow.tools.jobs.finished_before(uow.session, before, BATCH)
        queue.delete(found)
        return len(found)

    deleted: dict[str, Callable[[dt.datetime], int]] = {
        "jobs": jobs_of,
        "discarded": partial(rows_of, rows.discarded),
        "idempotency_keys": partial(rows_of, rows.idempotency_keys),
    }
    with read() as uow:
        present = clock(uow.session)
        kinds = [kind for kind in kinds_of(uow).values() if kind.retention]
    deleted |= {str(kind.retention): partial(rows_of, kind.prune) for kind in kinds}
    counts = dict.fromkeys(deleted, 0)
    for noun, delete in deleted.items():
        if days := getattr(keep, noun):
            before = present - dt.timedelta(days=days)
            counts[noun] = sum(takewhile(bool, (delete(before) for _ in range(BATCHES))))
    _remember(write, counts)
    return counts


def totals(uow: UnitOfWork) -> dict[str, int]:
    """Returns how many rows were deleted since the installation began, by noun."""
    return dict.fromkeys(Retention.__dataclass_fields__, 0) | (installation.read(uow.session, FACT) or {})


def _remember(write: Begin, counts: dict[str, int]) -> None:
    if any(counts.values()):
        with write() as uow:
            before = totals(uow)
            installation.write(uow.session, FACT, {noun: before[noun] + count for noun, count in counts.items()})
