"""Jobs as users see them: a view of the engine's records; cancels and retries jobs."""

import datetime as dt
from dataclasses import dataclass, replace
from typing import Any

from app.db import events as event_rows
from app.db import jobs as rows
from app.db.base import now
from app.domain.errors import DomainError
from app.domain.events.jobs import JobCancelled, JobFailed, JobRetried
from app.domain.principal import INSTALLATION, Principal
from app.services.jobs import attempts
from app.services.jobs.attempts import AnyKind
from app.services.jobs.kinds import CANCELLED, kinds_of
from app.services.tools import JobStatus
from app.services.unit_of_work import Begin, UnitOfWork

GIVEN_UP_SINCE = dt.timedelta(days=1)
# The maximum number of findings that one reconciliation records; the next one, seconds later, continues.
AT_ONCE = 500


def reconcile(read: Begin, write: Begin, reported: set[str]) -> int:
    """Reconciles subjects with jobs that ended without a result: abandoned by the engine, or lost before they were recorded.

    The look-up is one read-only transaction with one query of the engine; no write transaction is open meanwhile. Each finding is
    then recorded in a transaction of its own, the oldest first. Only one process calls this at a time (see
    `app.services.operations.maintenance`).

    Args:
        read: opens a read-only unit of work.
        write: opens a unit of work that writes.
        reported: abandoned jobs whose failure is already recorded; updated in place.

    Returns:
        How many findings were recorded by this call.
    """
    with read() as uow:
        ended, queue = _ended(uow, reported)[:AT_ONCE], uow.tools.jobs
    statuses = queue.statuses([found.job for found in ended])
    for found in ended:
        problem = _problem_of(statuses.get(found.job))
        with write() as uow:
            attempts.fail(uow, found.kind, found.job, problem)
            if found.is_given_up:
                attempts.tell_failed(uow, found.kind, found.job, problem)
        if found.is_given_up:
            reported.add(found.job)
    return len(ended)


@dataclass(frozen=True)
class _Ended:
    """A job that ended without a result: the engine abandoned it, or its subject still waits for it."""

    job: str
    kind: AnyKind
    is_given_up: bool


def _ended(uow: UnitOfWork, reported: set[str]) -> list[_Ended]:
    """Returns the jobs that ended without a result, those abandoned by the engine first; prunes unlisted jobs from `reported`."""
    given_up = rows.given_up(uow.session, rows.WORKFLOW, now() - GIVEN_UP_SINCE)
    reported &= set(given_up)
    reported |= event_rows.with_event(uow.session, JobFailed.spec.kind, [job for job in given_up if job not in reported])
    kinds, live = kinds_of(uow), uow.tools.jobs.live(uow.session)
    # A kind that is unknown here belongs to another version.
    found = {job: _Ended(job, kinds[kind], True) for job in given_up if job not in reported and (kind := kind_of(job)) in kinds}
    for waiting in kinds.values():
        for job, _ in waiting.unfinished(uow.session):
            if job not in live:
                found.setdefault(job, _Ended(job, waiting, False))
    return list(found.values())


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
    """Returns the jobs of the principal's owner (of all owners, for an admin), newest first, one more than `limit`."""
    owner = None if principal.is_admin else principal.owner
    if kind and (registered := kinds_of(uow).get(kind)) and (only := registered.owner):
        if owner not in (None, only):
            return []
        owner = only  # lets the query use the index over owners
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
    """Cancels a job. If it is an ingestion, its release is rejected and can be registered again."""
    status = _change(uow, principal, job)
    if not stop(uow, principal, kinds_of(uow)[kind_of(job)], job):
        raise DomainError("state.move", noun="job", state=status.state, target="cancelled")
    return status


def stop(uow: UnitOfWork, principal: Principal, kind: AnyKind, job: str) -> bool:
    """Cancels a job and records that on its subject in this transaction; returns False if the job was not waiting or running."""
    if not uow.tools.jobs.cancel(uow.session, job):
        return False
    record_cancelled(uow, principal, kind, job)
    return True


def record_cancelled(uow: UnitOfWork, principal: Principal, kind: AnyKind, job: str) -> None:
    """Records on the subject of a job, and as an event, that the job was cancelled."""
    attempts.fail(uow, kind, job, DomainError(CANCELLED).to_problem())
    uow.event(JobCancelled(kind=kind.name, subject=attempts.subject_of(job)), principal, job.partition(":")[0], job)


def retry(uow: UnitOfWork, principal: Principal, job: str) -> JobStatus:
    """Starts the next attempt of a job that failed or was cancelled; returns the new job."""
    status, subject = _change(uow, principal, job), attempts.subject_of(job)
    again = job
    if status.state in ("failed", "cancelled"):
        again = kinds_of(uow)[kind_of(job)].restart(uow, principal, subject)
    if again == job:
        raise DomainError("state.move", noun="job", state=status.state, target="queued")
    uow.event(JobRetried(kind=kind_of(job), subject=subject, before=job), principal, job.partition(":")[0], again)
    # The engine looks through a connection of its own, which does not see this transaction yet.
    return JobStatus(again, "queued", None, None, None, None)


def assigned(uow: UnitOfWork, executor: str) -> set[str]:
    """Returns the jobs that an executor runs according to the engine."""
    return rows.assigned(uow.session, executor)


def requeue(uow: UnitOfWork, job: str, executor: str) -> bool:
    """Requeues a job that its executor no longer runs; returns whether it did."""
    return rows.requeue(uow.session, job, executor)


def kind_of(job: str) -> str:
    """Returns the name of a job's kind."""
    return job.split(":", 2)[1]


def _change(uow: UnitOfWork, principal: Principal, job: str) -> JobStatus:
    """Returns the status of a job that the principal may change.

    Raises:
        DomainError: job.unknown, also for a job of a kind that this version does not know; token.scope.
    """
    status, owner = get(uow, principal, job), job.partition(":")[0]
    if kind_of(job) not in kinds_of(uow):
        raise DomainError("job.unknown", job=job[:200])
    if owner == INSTALLATION:
        principal.require_admin()
    else:
        principal.require_publish(owner)
    return status
