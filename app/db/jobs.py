"""Direct access to the job engine's table, where our transactions must be consistent with it or its own queries do not suffice.

The table is DBOS's (3.4): unprefixed on SQLite, in schema dbos on PostgreSQL. We only read it, except for three changes that DBOS
cannot make inside our transactions or has no API for: `cancel`, `requeue`, and moving waiting jobs to another queue (`move` in
`app.db.job_queues`). Contract tests (`tests/jobs/test_engine_contract.py`) compare the first two with DBOS's own calls.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CursorResult,
    Select,
    String,
    TableClause,
    and_,
    case,
    column,
    func,
    literal_column,
    null,
    or_,
    select,
    table,
    text,
    update,
)
from sqlalchemy.orm import Session

from app.db.base import clock
from app.db.job_indexes import OWNER, REFUSED

RUNNING = "PENDING"
STATUSES: dict[str, tuple[str, ...]] = {
    "queued": ("ENQUEUED", "DELAYED"), "running": (RUNNING,), "done": ("SUCCESS",), "cancelled": ("CANCELLED",),
    "failed": ("ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"),
}  # fmt: skip
LIVE = ("queued", "running")
WORKFLOW = "portllm_job"


@dataclass(frozen=True)
class Claim:
    """Who runs a job: the executor, and which of its starts this is (a job that was lost and came back is another)."""

    executor: str
    attempt: int


def claim(session: Session, job: str, executor: str) -> Claim | None:
    """The claim under which an executor runs a job now; None when it does not."""
    jobs = engine_jobs(session)
    query = select(jobs.c.recovery_attempts).where(
        jobs.c.workflow_uuid == job, jobs.c.executor_id == executor, jobs.c.status == RUNNING
    )
    found = session.execute(query).first()
    return Claim(executor, found[0] or 0) if found else None


def still_ours(session: Session, job: str, held: Claim) -> bool:
    """Whether a job runs under a claim: asked inside the transaction that records its result.

    The row stays locked until that transaction ends, so that the job cannot be given to another in between.
    """
    jobs = engine_jobs(session)
    query = select(func.coalesce(jobs.c.recovery_attempts, 0)).where(
        jobs.c.workflow_uuid == job, jobs.c.executor_id == held.executor, jobs.c.status == RUNNING
    )
    # On SQLite the transaction has the write lock already.
    attempt: int | None = session.scalar(query.with_for_update(key_share=True))
    return attempt == held.attempt


def executors(session: Session) -> set[str]:
    """Everybody who runs a job, or died over one."""
    jobs = engine_jobs(session)
    return set(session.scalars(select(jobs.c.executor_id).where(jobs.c.status == RUNNING).distinct()))


def live(session: Session) -> set[str]:
    """Returns the ids of all jobs that wait or run."""
    jobs = engine_jobs(session)
    # Repeats the predicate of the engine's partial index, so that finished jobs are not read.
    in_flight = select(jobs.c.workflow_uuid).where(text("status IN ('ENQUEUED', 'PENDING')"), jobs.c.name == WORKFLOW)
    delayed = select(jobs.c.workflow_uuid).where(jobs.c.status == literal_column("'DELAYED'"), jobs.c.name == WORKFLOW)
    return set(session.scalars(in_flight)) | set(session.scalars(delayed))


def cancel(session: Session, job: str) -> bool:
    """Cancels a job that waits or runs; returns whether it did. Sets the same columns as `DBOSClient.cancel_workflow`, but in our
    transaction.
    """
    jobs = engine_jobs(session)
    moment = int(clock(session).timestamp() * 1000)
    statement = update(jobs).where(jobs.c.workflow_uuid == job, jobs.c.status.in_([*STATUSES["queued"], RUNNING]))
    statement = statement.values(
        status="CANCELLED", owner_xid=null(), queue_name=null(), deduplication_id=null(), started_at_epoch_ms=null(),
        updated_at=moment, completed_at=moment,
    )  # fmt: skip
    return bool(cast(CursorResult[Any], session.execute(statement)).rowcount)


def assigned(session: Session, executor: str) -> set[str]:
    """Returns the ids of the jobs that an executor runs according to the engine."""
    jobs = engine_jobs(session)
    # Repeats the predicate of the engine's partial index over running jobs.
    query = select(jobs.c.workflow_uuid).where(text("status = 'PENDING'"), jobs.c.executor_id == executor)
    return set(session.scalars(query.where(jobs.c.name == WORKFLOW)))


def requeue(session: Session, job: str, executor: str) -> bool:
    """Requeues a job that its executor no longer runs; returns whether it did. Sets the same columns as the engine's recovery."""
    jobs = engine_jobs(session)
    statement = update(jobs).where(jobs.c.workflow_uuid == job, jobs.c.executor_id == executor, jobs.c.status == RUNNING)
    statement = statement.values(
        status="ENQUEUED", owner_xid=null(), started_at_epoch_ms=null(), updated_at=int(clock(session).timestamp() * 1000)
    )
    return bool(cast(CursorResult[Any], session.execute(statement)).rowcount)


def running(session: Session) -> dict[str, list[str]]:
    """Ids of running jobs by executor."""
    jobs = engine_jobs(session)
    found: dict[str, list[str]] = {}
    query = select(jobs.c.executor_id, jobs.c.workflow_uuid).where(jobs.c.status == RUNNING).order_by(jobs.c.workflow_uuid)
    for executor, job in session.execute(query):
        found.setdefault(executor, []).append(job)
    return found


def page(
    session: Session, name: str, owner: str | None, kind: str | None, state: str | None, after: str | None, limit: int
) -> Sequence[str]:
    """Ids of one page of jobs, newest first, one more than `limit` to tell whether there are others.

    Args:
        session: the transaction.
        name: the workflow that our jobs are.
        owner: only jobs of this owner.
        kind: only jobs of this kind.
        state: only jobs in this state, a key of `STATUSES`.
        after: the last id of the page before.
        limit: how many.
    """
    jobs = engine_jobs(session)
    query = select(jobs.c.workflow_uuid).where(jobs.c.name == name)
    if owner:
        query = query.where(_owner(session) == owner)
    if kind:
        query = query.where(jobs.c.workflow_uuid.contains(f":{kind}:", autoescape=True))
    if state:
        query = query.where(_in_state(session, jobs, state))
    if after:
        since = select(jobs.c.created_at).where(jobs.c.workflow_uuid == after).scalar_subquery()
        older = and_(jobs.c.created_at == since, jobs.c.workflow_uuid < after)
        query = query.where(or_(jobs.c.created_at < since, older))
    return session.scalars(query.order_by(jobs.c.created_at.desc(), jobs.c.workflow_uuid.desc()).limit(limit + 1)).all()


def finished_before(session: Session, moment: dt.datetime, limit: int) -> Sequence[str]:
    """Returns the ids of at most `limit` of our jobs that ended before a moment, oldest first; uses the engine's index over that
    time.
    """
    jobs = engine_jobs(session)
    query = select(jobs.c.workflow_uuid).where(jobs.c.completed_at < int(moment.timestamp() * 1000), jobs.c.name == WORKFLOW)
    query = query.where(jobs.c.status.not_in(("ENQUEUED", "DELAYED", RUNNING)))
    return session.scalars(query.order_by(jobs.c.completed_at).limit(limit)).all()


def given_up(session: Session, name: str, since: dt.datetime) -> Sequence[str]:
    """Jobs that ended since a moment without an outcome of ours: interrupted too often, or failed while that could not be said.

    Args:
        session: the transaction.
        name: the workflow that our jobs are.
        since: when they were given up at the earliest.
    """
    jobs = engine_jobs(session)
    query = select(jobs.c.workflow_uuid).where(jobs.c.name == name, jobs.c.status.in_(STATUSES["failed"]))
    query = query.where(jobs.c.updated_at > since.timestamp() * 1000)
    return session.scalars(query.order_by(jobs.c.updated_at, jobs.c.workflow_uuid)).all()


def _owner(session: Session) -> ColumnElement[str]:
    """Returns the expression for a job's owner, exactly as in the index over owners."""
    return literal_column(OWNER[session.get_bind().dialect.name], String)


def _in_state(session: Session, jobs: TableClause, state: str, among_few: bool = False) -> ColumnElement[bool]:
    if state in LIVE:  # with the predicates of the engine's partial indexes
        delayed = [jobs.c.status == literal_column("'DELAYED'")] if state == "queued" else []
        status: ColumnElement[str] = literal_column("'ENQUEUED'" if state == "queued" else "'PENDING'")
        return or_(and_(text("status IN ('ENQUEUED', 'PENDING')"), jobs.c.status == status), *delayed)
    found = jobs.c.status.in_(STATUSES[state])
    if state == "cancelled":
        return found
    outputs = _table(session, "workflow_output", "workflow_uuid", "output")
    refused: Select[Any] = select(outputs.c.workflow_uuid).where(text(REFUSED))
    # Among few jobs, each outcome is looked up; among all jobs, the index over refused ones is used.
    own = refused.where(outputs.c.workflow_uuid == jobs.c.workflow_uuid).exists()
    # Older rows store their outcome in the jobs table itself.
    before = func.substr(func.coalesce(jobs.c.output, ""), 1, 8) == '{"error"'
    is_refused = or_(own if among_few else jobs.c.workflow_uuid.in_(refused), before)
    return and_(found, ~is_refused) if state == "done" else or_(found, and_(jobs.c.status == "SUCCESS", is_refused))


def engine_jobs(session: Session) -> TableClause:
    """Returns the engine's table of jobs, with the columns that are used here."""
    texts = (
        "workflow_uuid",
        "status",
        "name",
        "executor_id",
        "output",
        "queue_name",
        "owner_xid",
        "deduplication_id",
        "queue_partition_key",
    )
    numbers = ("created_at", "updated_at", "recovery_attempts", "started_at_epoch_ms", "completed_at", "priority")
    return _table(session, "workflow_status", *texts, numbers=numbers)


def _table(session: Session, name: str, *texts: str, numbers: Sequence[str] = ()) -> TableClause:
    schema = None if session.get_bind().dialect.name == "sqlite" else "dbos"
    columns = [column(text, String) for text in texts] + [column(number, BigInteger) for number in numbers]
    return table(name, *columns, schema=schema)


@dataclass(frozen=True)
class Count:
    """How many jobs of a kind are in a state, of a class; when the oldest of them was made, in milliseconds since 1970."""

    kind: str
    state: str
    class_name: str
    count: int
    oldest_ms: int | None


def counts(session: Session, kinds: Sequence[str], since: dt.datetime) -> list[Count]:
    """Jobs that wait or run, and those made since a moment that ended; other kinds than the given ones are "other".

    The engine has indexes over what waits or runs and over the moment of making: nothing else is read.
    """
    jobs = engine_jobs(session)
    kind = case(*((jobs.c.workflow_uuid.contains(f":{name}:", autoescape=True), name) for name in kinds), else_="other")
    query = select(kind, jobs.c.queue_name, func.count(), func.min(jobs.c.created_at)).group_by(kind, jobs.c.queue_name)
    # Written into the statement: only so does every planner see that the engine's index over what is in flight will do.
    in_flight = text("status IN ('ENQUEUED', 'PENDING')")
    delayed = jobs.c.status == literal_column("'DELAYED'")
    chosen: list[tuple[str, ColumnElement[bool]]] = [
        ("queued", and_(in_flight, jobs.c.status == "ENQUEUED")), ("queued", delayed),
        ("running", and_(in_flight, jobs.c.status == RUNNING)),
    ]  # fmt: skip
    recent = jobs.c.created_at > since.timestamp() * 1000
    chosen += [(state, and_(recent, _in_state(session, jobs, state, among_few=True))) for state in STATUSES if state not in LIVE]
    return [
        Count(name, state, queue or "none", count, oldest)
        for state, condition in chosen for name, queue, count, oldest in session.execute(query.where(condition))
    ]  # fmt: skip
