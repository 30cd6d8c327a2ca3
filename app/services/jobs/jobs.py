"""Jobs: a view of the engine's own records, and what is told about them as events."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from app.db import events as event_rows
from app.db import jobs as rows
from app.db.base import now
from app.db.jobs import Claim
from app.domain.errors import DomainError
from app.domain.events.base import OwnerEvent
from app.domain.events.jobs import JobCancelled, JobDone, JobFailed, JobProgress, JobRetried, JobStarted
from app.domain.principal import INSTALLATION, Principal
from app.services.catalog import releases
from app.services.patches import imports
from app.services.ports import materialisations, port_digests
from app.services.tools import JobStatus
from app.services.unit_of_work import Begin, UnitOfWork

# Starts the next attempt at the same subject, by the use case that started the first; returns its job.
AGAIN: dict[str, Callable[[UnitOfWork, Principal, str], str]] = {
    releases.INGEST: releases.ingest_again,
    port_digests.DIGEST: port_digests.compute_again,
    materialisations.MATERIALISE: materialisations.again,
    imports.IMPORT: imports.again,
}
# What a cancelled job leaves to be said about its subject.
CANCELLED: dict[str, Callable[[UnitOfWork, str, dict[str, Any]], None]] = {
    releases.INGEST: releases.record_rejected,
    materialisations.MATERIALISE: materialisations.record_failed,
    imports.IMPORT: imports.record_refused,
}
# What a job that the engine gave up leaves to be said about its subject.
GIVEN_UP: dict[str, Callable[[UnitOfWork, str, str, dict[str, Any]], None]] = {
    releases.INGEST: releases.give_up,
    materialisations.MATERIALISE: materialisations.give_up,
    imports.IMPORT: imports.give_up,
}
# Functions that return the subjects waiting for a job, as (job, subject), the oldest first.
UNFINISHED: dict[str, Callable[[UnitOfWork], list[tuple[str, str]]]] = {
    releases.INGEST: releases.unfinished,
    materialisations.MATERIALISE: materialisations.unfinished,
    imports.IMPORT: imports.unfinished,
}
GIVEN_UP_SINCE = dt.timedelta(days=1)
# The maximum number of findings that one reconciliation records; the next one, seconds later, continues.
AT_ONCE = 500


def reconcile(read: Begin, write: Begin, told: set[str]) -> int:
    """Reconciles subjects with jobs that ended without a result: abandoned by the engine, or lost before they were recorded.

    The look-up reads in one transaction and asks the engine in one query, with no write transaction open; then each finding is
    recorded in its own transaction, the oldest first. Only one process calls this at a time (see
    `app.services.operations.maintenance`).

    Args:
        read: opens a read-only unit of work.
        write: opens a unit of work that writes.
        told: abandoned jobs whose failure is already recorded; updated in place.

    Returns:
        How many findings were recorded by this call.
    """
    with read() as uow:
        ended, queue = _ended(uow, told)[:AT_ONCE], uow.tools.jobs
    statuses = queue.statuses([found.job for found in ended])
    for found in ended:
        problem = _problem_of(statuses.get(found.job))
        with write() as uow:
            if found.kind in GIVEN_UP:
                GIVEN_UP[found.kind](uow, found.subject, found.job, problem)
            if found.is_given_up:
                failed(uow, found.job, found.kind, found.subject, problem)
        if found.is_given_up:
            told.add(found.job)
    return len(ended)


@dataclass(frozen=True)
class _Ended:
    """A job that ended without a result: the engine abandoned it, or its subject still waits for it."""

    job: str
    kind: str
    subject: str
    is_given_up: bool


def _ended(uow: UnitOfWork, told: set[str]) -> list[_Ended]:
    """Returns the jobs that ended without a result, those abandoned by the engine first; prunes unlisted jobs from `told`."""
    given_up = rows.given_up(uow.session, rows.WORKFLOW, now() - GIVEN_UP_SINCE)
    told &= set(given_up)
    told |= event_rows.told_of(uow.session, JobFailed.spec.kind, [job for job in given_up if job not in told])
    found = {job: _Ended(job, job.split(":", 2)[1], subject_of(job), True) for job in given_up if job not in told}
    live = uow.tools.jobs.live(uow.session)
    for kind, waiting in UNFINISHED.items():
        for job, subject in waiting(uow):
            if job not in live:
                found.setdefault(job, _Ended(job, kind, subject, False))
    return list(found.values())


def subject_of(job: str) -> str:
    """Returns the id of a job's subject: the last part of the job's id, without the attempt."""
    return job.split(":", 2)[2].rpartition("-")[0]


def _problem_of(status: JobStatus | None) -> dict[str, Any]:
    """Returns the problem of a job that ended without a result. Its status is None if the engine does not know the job."""
    error = DomainError("job.crashed", reason="it ended without recording a result")
    return status.problem if status and status.problem else error.to_problem()


def get(uow: UnitOfWork, principal: Principal, job: str) -> JobStatus:
    owner = job.partition(":")[0]
    # A zero character is in no id, and PostgreSQL would not even look for one.
    status = uow.tools.jobs.status(job) if principal.can_read(owner) and "\0" not in job else None
    if status is None:
        raise DomainError("job.unknown", job=job[:200])
    return _with_missing_workers(uow, [status])[0]


def list_page(
    uow: UnitOfWork, principal: Principal, kind: str | None, state: str | None, after: str | None, limit: int
) -> list[JobStatus]:
    """The jobs of the principal's owner, newest first, one more than `limit`; an admin sees all."""
    owner = None if principal.is_admin else principal.owner
    return _with_missing_workers(uow, uow.tools.jobs.page(uow.session, owner, kind, state, after, limit))


def _with_missing_workers(uow: UnitOfWork, found: list[JobStatus]) -> list[JobStatus]:
    """Returns the same jobs, with `waiting_for` set on queued ones whose class has no live worker."""
    if not any(job.state == "queued" and job.class_name for job in found):
        return found
    served = uow.tools.jobs.served(uow.session)
    return [
        replace(job, waiting_for=job.class_name) if job.state == "queued" and job.class_name not in served else job
        for job in found
    ]  # fmt: skip


def cancel(uow: UnitOfWork, principal: Principal, job: str) -> JobStatus:
    """Stops a job; a release whose ingestion is cancelled is rejected, and can be registered again."""
    status, _, kind, subject = _change(uow, principal, job)
    if not stop(uow, principal, job, kind, subject):
        raise DomainError("state.move", noun="job", state=status.state, target="cancelled")
    return status


def stop(uow: UnitOfWork, principal: Principal, job: str, kind: str, subject: str) -> bool:
    """Cancels a job and records that on its subject, in this transaction; returns False if the job neither waits nor runs.

    The job's row is locked before its subject's, in the same order as when a result is recorded.
    """
    if not uow.tools.jobs.cancel(uow.session, job):
        return False
    record_cancelled(uow, principal, job, kind, subject)
    return True


def record_cancelled(uow: UnitOfWork, principal: Principal, job: str, kind: str, subject: str) -> None:
    """Records on the subject of a job, and as an event, that the job was cancelled."""
    if kind in CANCELLED:
        CANCELLED[kind](uow, subject, DomainError("job.cancelled").to_problem())
    uow.event(JobCancelled(kind=kind, subject=subject), principal, job.partition(":")[0], job)


def retry(uow: UnitOfWork, principal: Principal, job: str) -> JobStatus:
    """Starts the next attempt of a job that failed or was cancelled; returns the new job."""
    status, owner, kind, subject = _change(uow, principal, job)
    if status.state not in ("failed", "cancelled") or kind not in AGAIN:
        raise DomainError("state.move", noun="job", state=status.state, target="queued")
    again = AGAIN[kind](uow, principal, subject)
    if again == job:
        raise DomainError("state.move", noun="job", state=status.state, target="queued")
    uow.event(JobRetried(kind=kind, subject=subject, before=job), principal, owner, again)
    # The engine looks through a connection of its own, which does not see this transaction yet.
    return JobStatus(again, "queued", None, None, None, None)


def claim(uow: UnitOfWork, job: str, executor: str) -> Claim:
    """The claim under which an executor runs a job.

    Raises:
        DomainError: job.lost, when it does not (any more).
    """
    held = rows.claim(uow.session, job, executor)
    if held is None:
        raise DomainError("job.lost", job=job)
    return held


def assigned(uow: UnitOfWork, executor: str) -> set[str]:
    """Returns the jobs that an executor runs according to the engine."""
    return rows.assigned(uow.session, executor)


def requeue(uow: UnitOfWork, job: str, executor: str) -> bool:
    """Requeues a job that its executor no longer runs; returns whether it did."""
    return rows.requeue(uow.session, job, executor)


def is_ours(uow: UnitOfWork, job: str, held: Claim) -> bool:
    """Whether a job still runs under a claim; if so it does until the end of this transaction."""
    return rows.still_ours(uow.session, job, held)


def require(uow: UnitOfWork, job: str, held: Claim) -> None:
    """Raises `DomainError` (job.lost) unless a job still runs under a claim; until the end of this transaction it does."""
    if not rows.still_ours(uow.session, job, held):
        raise DomainError("job.lost", job=job)


def started(uow: UnitOfWork, job: str, kind: str, subject: str, held: Claim) -> None:
    _record(uow, job, JobStarted(kind=kind, subject=subject, attempt=held.attempt))


def progressed(uow: UnitOfWork, job: str, kind: str, subject: str, progress: dict[str, Any]) -> None:
    _record(uow, job, JobProgress(kind=kind, subject=subject, progress=progress))


def done(uow: UnitOfWork, job: str, kind: str, subject: str) -> None:
    _record(uow, job, JobDone(kind=kind, subject=subject))


def failed(uow: UnitOfWork, job: str, kind: str, subject: str, problem: dict[str, Any]) -> None:
    _record(uow, job, JobFailed(kind=kind, subject=subject, code=problem["code"], detail=problem["detail"]))


def _record(uow: UnitOfWork, job: str, event: OwnerEvent) -> None:
    """Records an event about a job, for the job's owner."""
    worker = Principal(INSTALLATION, frozenset({"admin"}), job)
    uow.event(event, worker, job.partition(":")[0], job)


def _change(uow: UnitOfWork, principal: Principal, job: str) -> tuple[JobStatus, str, str, str]:
    """A job that the principal may change: its status, owner, kind and subject."""
    status = get(uow, principal, job)
    owner, kind, _ = job.split(":", 2)
    if owner == INSTALLATION:
        principal.require_admin()
    else:
        principal.require_publish(owner)
    return status, owner, kind, subject_of(job)
