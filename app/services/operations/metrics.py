"""Metrics for operators: counts by state, and the usage of the largest owners. They are cheap at any size."""

import datetime as dt
from dataclasses import dataclass

from app.db import events, ports, releases, sizes
from app.db import jobs as job_rows
from app.db.base import now
from app.db.patches import LIVING
from app.domain.states import MOVES
from app.services.jobs import workers
from app.services.jobs.kinds import kinds_of
from app.services.operations import retention
from app.services.unit_of_work import UnitOfWork

# Jobs that ended are counted as far back as this: the engine keeps them all, and their number only grows.
RECENT = dt.timedelta(days=1)
OTHERS = "(other)"  # not a valid owner name
STATES = ("queued", "running", "done", "failed", "cancelled")


@dataclass(frozen=True)
class Work:
    """What is to be done and by whom.

    Attributes:
        jobs: counts by kind, state and class; those that ended, of the last day.
        oldest: for how many seconds the oldest waiting job waits, by class.
        workers: how many live, by class.
        unserved: how many jobs wait for a class without a live worker, by class.
    """

    jobs: dict[tuple[str, str, str], int]
    oldest: dict[str, float]
    workers: dict[str, int]
    unserved: dict[str, int]


@dataclass(frozen=True)
class Stock:
    """What the registry holds.

    Attributes:
        ports, releases, versions: counts by state.
        damaged: how many releases have a file whose bytes changed.
        version_bytes: bytes of versions, by state.
        release_bytes: bytes of releases that were copied to the store.
        owner_bytes, owner_ports: usage of the largest owners, with the sum of all others under `OTHERS`.
        cursor, event_age: the id of the last event, and its age in seconds; 0 if there is none.
        database_bytes: the size of the database.
        deleted: how many rows the retention periods have deleted, by noun.
    """

    ports: dict[str, int]
    releases: dict[str, int]
    damaged: int
    versions: dict[str, int]
    version_bytes: dict[str, int]
    release_bytes: int
    owner_bytes: dict[str, int]
    owner_ports: dict[str, int]
    cursor: int
    event_age: float
    database_bytes: int
    deleted: dict[str, int]


def work(uow: UnitOfWork, ttl: float) -> Work:
    """Reads what indexes of the job engine hold: jobs that wait or run, and those of the last day.

    Args:
        uow: the transaction.
        ttl: after how many seconds without a word a worker is dead.
    """
    moment, kinds = now(), kinds_of(uow)
    found = job_rows.counts(uow.session, tuple(kinds), moment - RECENT)
    living = workers.live_by_class(uow, ttl)
    classes = {workers.CPU, *living, *(row.class_name for row in found)}
    jobs = {(kind, state, name): 0 for kind in kinds for state in STATES for name in classes}
    oldest = dict.fromkeys(classes, 0.0)
    for row in found:
        key = (row.kind, row.state, row.class_name)
        jobs[key] = jobs.get(key, 0) + row.count
        if row.state == "queued" and row.oldest_ms is not None:
            oldest[row.class_name] = max(oldest[row.class_name], moment.timestamp() - row.oldest_ms / 1000)
    served = workers.served(uow.session, ttl)
    unserved = dict.fromkeys(classes, 0)
    for row in found:
        if row.state == "queued" and row.class_name not in served:
            unserved[row.class_name] += row.count
    return Work(jobs, oldest, {name: living.get(name, 0) for name in classes}, unserved)


def stock(uow: UnitOfWork, owners: int) -> Stock:
    """Returns the current stock, read from the indexes over states and owners and from the last event.

    Args:
        uow: the transaction.
        owners: how many owners are listed individually.
    """
    session = uow.session
    held, drops, drafts = (dict.fromkeys(MOVES[noun], 0) for noun in ("port", "release", "version"))
    found = sizes.versions_by_state(session)
    made = held | ports.counts(session)
    version_bytes = drafts | {state: size for state, (_, size) in found.items()}
    stored = sum(version_bytes[state] for state in LIVING)
    last = events.newest(session)
    return Stock(
        ports=made,
        releases=drops | releases.counts(session),
        damaged=releases.count_damaged(session),
        versions=drafts | {state: count for state, (count, _) in found.items()},
        version_bytes=version_bytes,
        release_bytes=sizes.copied_release_bytes(session),
        owner_bytes=_with_others(sizes.bytes_by_owner(session, owners), stored),
        owner_ports=_with_others(sizes.ports_by_owner(session, owners), sum(made.values())),
        cursor=last.id if last else 0,
        event_age=max(0.0, (now() - last.at).total_seconds()) if last else 0.0,
        database_bytes=sizes.database_bytes(session),
        deleted=retention.totals(uow),
    )


def _with_others(most: dict[str, int], total: int) -> dict[str, int]:
    """Returns the figures of the largest owners, with the sum of all others under `OTHERS`."""
    return {**most, OTHERS: max(0, total - sum(most.values()))}
