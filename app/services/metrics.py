"""Figures for operators: how much there is of what in which state. They know no owners, and cost little at any size."""

import datetime as dt
from dataclasses import dataclass

from app.db import events, ports, releases
from app.db import jobs as job_rows
from app.db.base import now
from app.domain.states import MOVES
from app.services import workers
from app.services.jobs import AGAIN
from app.services.uow import UnitOfWork

# Jobs that ended are counted as far back as this: the engine keeps them all, and their number only grows.
RECENT = dt.timedelta(days=1)
STATES = ("queued", "running", "done", "failed", "cancelled")


@dataclass(frozen=True)
class Work:
    """What is to be done and by whom.

    Attributes:
        jobs: counts by kind, state and class; those that ended, of the last day.
        oldest: for how many seconds the oldest waiting job waits, by class.
        workers: how many live, by class.
    """

    jobs: dict[tuple[str, str, str], int]
    oldest: dict[str, float]
    workers: dict[str, int]


@dataclass(frozen=True)
class Stock:
    """What there is: ports and releases by state, how many releases are damaged, and the id of the last event."""

    ports: dict[str, int]
    releases: dict[str, int]
    damaged: int
    cursor: int


def work(uow: UnitOfWork, ttl: float) -> Work:
    """Reads what indexes of the job engine hold: jobs that wait or run, and those of the last day.

    Args:
        uow: the transaction.
        ttl: after how many seconds without a word a worker is dead.
    """
    moment = now()
    found = job_rows.counts(uow.session, tuple(AGAIN), moment - RECENT)
    living = workers.live_by_class(uow, ttl)
    classes = {workers.CPU, *living, *(row.class_name for row in found)}
    jobs = {(kind, state, name): 0 for kind in AGAIN for state in STATES for name in classes}
    oldest = dict.fromkeys(classes, 0.0)
    for row in found:
        key = (row.kind, row.state, row.class_name)
        jobs[key] = jobs.get(key, 0) + row.count
        if row.state == "queued" and row.oldest_ms is not None:
            oldest[row.class_name] = max(oldest[row.class_name], moment.timestamp() - row.oldest_ms / 1000)
    return Work(jobs, oldest, {name: living.get(name, 0) for name in classes})


def stock(uow: UnitOfWork) -> Stock:
    """Reads the indexes over states, and the end of the list of events."""
    held, drops = (dict.fromkeys(MOVES[noun], 0) for noun in ("port", "release"))
    drops |= releases.counts(uow.session)
    return Stock(held | ports.counts(uow.session), drops, releases.count_damaged(uow.session), events.last(uow.session))
