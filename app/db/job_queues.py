"""Fair queueing of waiting jobs between owners, and counts of waiting jobs.

The engine starts the job with the lowest priority number first, and the oldest among equals. The numbers follow start-time fair
queueing: every job that an owner adds gets the number after that of the owner's last waiting job, and never a lower number than
the front of the queue. So owners take turns however many jobs each has waiting, no job starves, and an owner gains no credit by
being idle.

The engine's column `queue_partition_key` holds the flow, "owner:kind", because it has an index over it for waiting jobs. The
queues themselves are not partitioned: a partitioned queue never starts jobs without a key, and processes of the previous version
enqueue such jobs.
"""

from collections.abc import Collection, Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, TableClause, and_, func, literal_column, or_, select, text, update
from sqlalchemy.orm import Session

from app.db.jobs import STATUSES, engine_jobs

# Urgent jobs run before all others. LAST is the largest priority number that the engine allows.
URGENT, FIRST, LAST = 1, 2, 2**31 - 1


def flow_of(owner: str, kind: str) -> str:
    """Returns the flow of a job. Flows take turns; an owner has one per kind of job, so its imports do not delay its digests."""
    return f"{owner}:{kind}"


def next_priority(session: Session, queue: str, flow: str) -> int:
    """Returns the priority of the next job of a flow, in two index look-ups however many jobs wait."""
    jobs = engine_jobs(session)
    last = session.scalar(select(func.max(jobs.c.priority)).where(*_waiting(jobs, queue), jobs.c.queue_partition_key == flow))
    return min(max((last or 0) + 1, front(session, queue)), LAST)


def front(session: Session, queue: str) -> int:
    """Returns the lowest priority number that waits in a queue.

    Jobs that have already run and wait again are ignored, because their number dates from when they were added.
    """
    jobs = engine_jobs(session)
    query = select(jobs.c.priority).where(*_waiting(jobs, queue), jobs.c.priority >= FIRST)
    query = query.where(func.coalesce(jobs.c.recovery_attempts, 0) == 0).order_by(jobs.c.priority).limit(1)
    return session.scalar(query) or FIRST


def move(session: Session, kinds: Sequence[str], prefix: str, living: Collection[str], to: str) -> int:
    """Moves waiting jobs of some kinds to another queue, from all unserved queues with a prefix; returns how many were moved.

    The jobs keep their relative order and start at the front of the other queue.
    """
    jobs = engine_jobs(session)
    stranded = and_(
        jobs.c.status.in_(STATUSES["queued"]), jobs.c.queue_name.startswith(prefix, autoescape=True),
        jobs.c.queue_name.not_in(living), or_(*(jobs.c.workflow_uuid.contains(f":{kind}:", autoescape=True) for kind in kinds)),
    )  # fmt: skip
    lowest = session.scalar(select(func.min(jobs.c.priority)).where(stranded))
    if lowest is None:
        return 0
    statement = update(jobs).where(stranded).values(queue_name=to, priority=jobs.c.priority + (front(session, to) - lowest))
    return cast(CursorResult[Any], session.execute(statement)).rowcount


def waiting(session: Session, owner: str) -> int:
    """Returns how many jobs of an owner wait in all queues."""
    jobs = engine_jobs(session)
    in_flight = text("status IN ('ENQUEUED', 'PENDING')")
    query = select(func.count()).where(in_flight, jobs.c.status == "ENQUEUED")
    query = query.where(jobs.c.queue_partition_key.startswith(f"{owner}:", autoescape=True))
    return session.scalar(query) or 0


def waiting_by_class(session: Session) -> dict[str, int]:
    """Returns how many jobs wait, by class; uses the engine's index over jobs in flight."""
    jobs = engine_jobs(session)
    query = select(jobs.c.queue_name, func.count()).where(text("status IN ('ENQUEUED', 'PENDING')"), jobs.c.status == "ENQUEUED")
    return {name: count for name, count in session.execute(query.group_by(jobs.c.queue_name)) if name}


def _waiting(jobs: TableClause, queue: str) -> tuple[ColumnElement[bool], ...]:
    # The first condition repeats the predicate of the engine's partial indexes literally, so that every query planner matches it.
    in_flight: ColumnElement[bool] = literal_column("status IN ('ENQUEUED', 'PENDING')")
    return in_flight, jobs.c.status == literal_column("'ENQUEUED'"), jobs.c.queue_name == queue
