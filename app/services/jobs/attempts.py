"""Attempts of jobs, for every kind: starts an attempt, and records its outcome on the subject.

Lock order: first the engine's row of the job, then the subject's row, both for recording and for cancelling.
"""

from typing import Any

from app.db import jobs as rows
from app.db.jobs import Claim
from app.domain.errors import DomainError
from app.domain.events.base import OwnerEvent
from app.domain.events.jobs import JobDone, JobFailed, JobProgress, JobStarted
from app.domain.principal import INSTALLATION, Principal
from app.services.jobs.kinds import Done, JobKind
from app.services.unit_of_work import UnitOfWork

AnyKind = JobKind[Any, Any, Any]


def subject_of(job: str) -> str:
    """Returns the id of a job's subject: the last part of the job's id, without the attempt."""
    return job.split(":", 2)[2].rpartition("-")[0]


def claim(uow: UnitOfWork, job: str, executor: str) -> Claim:
    """Returns the claim under which an executor runs a job.

    Raises:
        DomainError: job.lost, if the executor does not run the job, or no longer does.
    """
    held = rows.claim(uow.session, job, executor)
    if held is None:
        raise DomainError("job.lost", job=job)
    return held


def start(uow: UnitOfWork, kind: AnyKind, job: str, held: Claim) -> None:
    """Records that a job was started."""
    _tell(uow, job, JobStarted(kind=kind.name, subject=subject_of(job), attempt=held.attempt))


def make_order(uow: UnitOfWork, kind: AnyKind, job: str) -> Any:
    """Returns the order of a job, or None if its subject no longer waits for it."""
    row = _waiting(uow, kind, job)
    return None if row is None else kind.order(uow, row)


def report(uow: UnitOfWork, kind: AnyKind, job: str, progress: dict[str, Any]) -> None:
    """Records progress as an event."""
    _tell(uow, job, JobProgress(kind=kind.name, subject=subject_of(job), progress=progress))


def keep(uow: UnitOfWork, kind: AnyKind, job: str, held: Claim, order: Any, result: Any) -> Any:
    """Moves the files that a job wrote to their final location. Locks no row, because this can take long with a remote store.

    It is called first in a read-only transaction, which blocks no other, and again by `record`, which then finds them moved.

    Raises:
        DomainError: job.lost; blob.missing, if the job did not write a file that its result lists.
    """
    if rows.claim(uow.session, job, held.executor) != held:
        raise DomainError("job.lost", job=job)
    return kind.keep(uow, order, result)


def record(uow: UnitOfWork, kind: AnyKind, job: str, held: Claim, order: Any, result: Any) -> bool:
    """Records the result of a job. Returns False if its subject no longer waits for it, for example because an earlier commit
    succeeded without confirmation.

    Raises:
        DomainError: job.lost.
        CoreError, DomainError: the result cannot be used.
    """
    kept = keep(uow, kind, job, held, order, result)
    _require(uow, job, held)
    row = _waiting(uow, kind, job)
    if row is None:
        return False
    kind.record(uow, row, Done(_worker(job), order, result, kept))
    _tell(uow, job, JobDone(kind=kind.name, subject=subject_of(job)))
    return True


def reject(uow: UnitOfWork, kind: AnyKind, job: str, held: Claim, problem: dict[str, Any]) -> None:
    """Records that a job failed.

    Raises:
        DomainError: job.lost.
    """
    _require(uow, job, held)
    fail(uow, kind, job, problem)
    tell_failed(uow, kind, job, problem)


def clear(uow: UnitOfWork, kind: AnyKind, job: str, held: Claim, order: Any) -> None:
    """Removes the files of a failed process, unless another worker has taken over the job and writes to the same location."""
    if kind.own_place or rows.still_ours(uow.session, job, held):
        kind.clear(uow, order)


def fail(uow: UnitOfWork, kind: AnyKind, job: str, problem: dict[str, Any]) -> None:
    """Records a failure on the subject of a job, unless the subject no longer waits for it (already recorded, or restarted)."""
    row = _waiting(uow, kind, job)
    if row is not None:
        kind.fail(uow, row, _worker(job), problem)


def tell_failed(uow: UnitOfWork, kind: AnyKind, job: str, problem: dict[str, Any]) -> None:
    """Records as an event that a job failed."""
    code, detail = problem["code"], problem["detail"]
    _tell(uow, job, JobFailed(kind=kind.name, subject=subject_of(job), code=code, detail=detail))


def _tell(uow: UnitOfWork, job: str, event: OwnerEvent) -> None:
    """Records an event about a job, for the job's owner."""
    uow.event(event, _worker(job), job.partition(":")[0], job)


def _waiting(uow: UnitOfWork, kind: AnyKind, job: str) -> Any:
    """Returns the locked subject of a job if it waits for this job, else None."""
    row = kind.find(uow.session, subject_of(job))
    if row is None:
        return None
    uow.lock(row)
    return row if kind.waits(row) and row.job == job else None


def _require(uow: UnitOfWork, job: str, held: Claim) -> None:
    """Raises `DomainError` (job.lost) unless a job still runs under a claim; until the end of this transaction it does."""
    if not rows.still_ours(uow.session, job, held):
        raise DomainError("job.lost", job=job)


def _worker(job: str) -> Principal:
    return Principal(INSTALLATION, frozenset({"admin"}), job)
