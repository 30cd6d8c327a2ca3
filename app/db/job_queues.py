"""The order of waiting jobs, which is fair between owners, and how many an owner has.

The engine takes the job with the lowest priority number first, and of equal ones the oldest. The numbers are those of start-time
fair queueing: every job that an owner adds gets the number after its last waiting one, and none gets a lower number than the
front of the queue. So owners take turns however many jobs each has waiting, nobody waits for ever, and an idle owner saves
nothing up.

The engine's `queue_partition_key` names the flow, "owner:kind": there is an index over it for jobs that wait. Its queues are not
partitioned: that would leave jobs without a key waiting for ever, which processes of the version before enqueue.
"""

from collections.abc import Collection, Sequence
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, TableClause, and_, func, literal_column, or_, select, text, update
from sqlalchemy.orm import Session

from app.db.jobs import STATUSES, engine_jobs

# Urgent jobs go before all others. The engine's numbers end with the largest.
URGENT, FIRST, LAST = 1, 2, 2**31 - 1


def flow_of(owner: str, kind: str) -> str:
    """What takes turns: the jobs of one kind of an owner, so that its imports do not delay its digests."""
    return f"{owner}:{kind}"


def next_priority(session: Session, queue: str, flow: str) -> int:
    """The priority of the next job of a flow; two lookups by index, however many jobs wait."""
    jobs = engine_jobs(session)
    last = session.scalar(select(func.max(jobs.c.priority)).where(*_waiting(jobs, queue), jobs.c.queue_partition_key == flow))
    return min(max((last or 0) + 1, front(session, queue)), LAST)


def front(session: Session, queue: str) -> int:
    """The lowest priority that waits in a queue. Jobs that ran before do not count: theirs is of the time they were added."""
    jobs = engine_jobs(session)
    query = select(jobs.c.priority).where(*_waiting(jobs, queue), jobs.c.priority >= FIRST)
    query = query.where(func.coalesce(jobs.c.recovery_attempts, 0) == 0).order_by(jobs.c.priority).limit(1)
    return session.scalar(query) or FIRST


def move(session: Session, kinds: Sequence[str], prefix: str, living: Collection[str], to: str) -> int:
    """Moves waiting jobs of some kinds from the queues of a prefix, but those that are served, to another; how many.

    They keep their order among each other, and begin at the front of the other queue.
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
    """How many jobs of an owner wait, in all queues."""
    jobs = engine_jobs(session)
    in_flight = text("status IN ('ENQUEUED', 'PENDING')")
    query = select(func.count()).where(in_flight, jobs.c.status == "ENQUEUED")
    query = query.where(jobs.c.queue_partition_key.startswith(f"{owner}:", autoescape=True))
    return session.scalar(query) or 0


def waiting_by_class(session: Session) -> dict[str, int]:
    """How many jobs wait, by class; by the engine's index over what is in flight."""
    jobs = engine_jobs(session)
    query = select(jobs.c.queue_name, func.count()).where(text("status IN ('ENQUEUED', 'PENDING')"), jobs.c.status == "ENQUEUED")
    return {name: count for name, count in session.execute(query.group_by(jobs.c.queue_name)) if name}


def _waiting(jobs: TableClause, queue: str) -> tuple[ColumnElement[bool], ...]:
    # The first is the predicate of the engine's partial indexes, written out so that every planner recognises it.
    in_flight: ColumnElement[bool] = literal_column("status IN ('ENQUEUED', 'PENDING')")
    return in_flight, jobs.c.status == literal_column("'ENQUEUED'"), jobs.c.queue_name == queue
