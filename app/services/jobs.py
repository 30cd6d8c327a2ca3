"""Jobs: a view of the engine's own records, and what is told about them as events."""

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any

from app.db import events as event_rows
from app.db import jobs as rows
from app.db.base import now
from app.db.jobs import Claim
from app.domain.errors import DomainError
from app.domain.principal import INSTALLATION, Principal
from app.services import digests, imports, materialisations, releases
from app.services.uow import JobStatus, UnitOfWork

FAILED = "job.failed"
# Starts the next attempt at the same subject, by the use case that started the first; returns its job.
AGAIN: dict[str, Callable[[UnitOfWork, Principal, str], str]] = {
    releases.INGEST: releases.ingest_again,
    digests.DIGEST: digests.compute_again,
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
GIVEN_UP_SINCE = dt.timedelta(days=1)


def reconcile(uow: UnitOfWork, told: set[str]) -> int:
    """Says what no worker could say: of jobs that the engine gave up, and of facts that wait for a job that has ended.

    Whoever calls it is the only one who does (see `app.services.house`). The event and the fact are one transaction, so that
    each is told once.

    Args:
        uow: a transaction that writes.
        told: jobs that are known to be told of; grows.

    Returns:
        How many were told of now.
    """
    count = 0
    for job in rows.given_up(uow.session, rows.WORKFLOW, now() - GIVEN_UP_SINCE):
        owner, kind, key = job.split(":", 2)
        if job in told:
            continue
        uow.after_commit(partial(told.add, job))
        status = uow.tools.jobs.status(job)
        if event_rows.was_told(uow.session, owner, FAILED, job) or status is None or status.problem is None:
            continue
        subject = key.rpartition("-")[0]
        if kind in GIVEN_UP:
            GIVEN_UP[kind](uow, subject, job, status.problem)
        failed(uow, job, kind, subject, status.problem)
        uow.session.flush()  # whoever looks for what still waits, below, must not find it again
        count += 1
    return count + releases.reconcile(uow) + materialisations.reconcile(uow) + imports.reconcile(uow)


def get(uow: UnitOfWork, principal: Principal, job: str) -> JobStatus:
    owner = job.partition(":")[0]
    # A zero character is in no id, and PostgreSQL would not even look for one.
    status = uow.tools.jobs.status(job) if principal.can_read(owner) and "\0" not in job else None
    if status is None:
        raise DomainError("job.unknown", job=job[:200])
    return status


def list_page(
    uow: UnitOfWork, principal: Principal, kind: str | None, state: str | None, after: str | None, limit: int
) -> list[JobStatus]:
    """The jobs of the principal's owner, newest first, one more than `limit`; an admin sees all."""
    owner = None if principal.is_admin else principal.owner
    return uow.tools.jobs.page(uow.session, owner, kind, state, after, limit)


def cancel(uow: UnitOfWork, principal: Principal, job: str) -> JobStatus:
    """Stops a job; a release whose ingestion is cancelled is rejected, and can be registered again."""
    status, _, kind, subject = _change(uow, principal, job)
    if status.state not in ("queued", "running"):
        raise DomainError("state.move", noun="job", state=status.state, target="cancelled")
    stop(uow, principal, job, kind, subject)
    return status


def stop(uow: UnitOfWork, principal: Principal, job: str, kind: str, subject: str) -> None:
    """Stops a job that waits or runs, whoever asks."""
    if kind in CANCELLED:
        CANCELLED[kind](uow, subject, DomainError("job.cancelled").to_problem())
    # After the commit: the engine writes through a connection of its own, which would wait for this transaction.
    uow.after_commit(lambda: uow.tools.jobs.cancel(job))
    uow.event("job.cancelled", principal, job.partition(":")[0], job, kind=kind, subject=subject)


def retry(uow: UnitOfWork, principal: Principal, job: str) -> JobStatus:
    """Starts the next attempt of a job that failed or was cancelled; returns the new job."""
    status, owner, kind, subject = _change(uow, principal, job)
    if status.state not in ("failed", "cancelled") or kind not in AGAIN:
        raise DomainError("state.move", noun="job", state=status.state, target="queued")
    again = AGAIN[kind](uow, principal, subject)
    if again == job:
        raise DomainError("state.move", noun="job", state=status.state, target="queued")
    uow.event("job.retried", principal, owner, again, kind=kind, subject=subject, before=job)
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


def is_ours(uow: UnitOfWork, job: str, held: Claim) -> bool:
    """Whether a job still runs under a claim; if so it does until the end of this transaction."""
    return rows.still_ours(uow.session, job, held)


def require(uow: UnitOfWork, job: str, held: Claim) -> None:
    """Raises `DomainError` (job.lost) unless a job still runs under a claim; until the end of this transaction it does."""
    if not rows.still_ours(uow.session, job, held):
        raise DomainError("job.lost", job=job)


def started(uow: UnitOfWork, job: str, kind: str, subject: str, held: Claim) -> None:
    _tell(uow, "job.started", job, kind=kind, subject=subject, attempt=held.attempt)


def progressed(uow: UnitOfWork, job: str, kind: str, subject: str, progress: dict[str, Any]) -> None:
    _tell(uow, "job.progress", job, kind=kind, subject=subject, **progress)


def done(uow: UnitOfWork, job: str, kind: str, subject: str) -> None:
    _tell(uow, "job.done", job, kind=kind, subject=subject)


def failed(uow: UnitOfWork, job: str, kind: str, subject: str, problem: dict[str, Any]) -> None:
    _tell(uow, FAILED, job, kind=kind, subject=subject, code=problem["code"], detail=problem["detail"])


def _tell(uow: UnitOfWork, what: str, job: str, **data: Any) -> None:
    """An event whose subject is the job, of the job's owner."""
    worker = Principal(INSTALLATION, frozenset({"admin"}), job)
    uow.event(what, worker, job.partition(":")[0], job, **data)


def _change(uow: UnitOfWork, principal: Principal, job: str) -> tuple[JobStatus, str, str, str]:
    """A job that the principal may change: its status, owner, kind and subject."""
    status = get(uow, principal, job)
    owner, kind, key = job.split(":", 2)
    if owner == INSTALLATION:
        principal.require_admin()
    else:
        principal.require_publish(owner)
    return status, owner, kind, key.rpartition("-")[0]
