"""The attempts of jobs: how each begins, and how its outcome is recorded on the subject; the same for every kind.

The engine's row of the job is locked before the subject's row, whether a result is recorded or the job is cancelled.
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
        DomainError: job.lost, if it does not run the job (any more).
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
    """Moves what a job wrote to where it stays; it can take long where the store is far away, so no row is locked.

    Called in a read-only transaction first, which blocks no other one, and again by `record`, which then finds it done.

    Raises:
        DomainError: job.lost; blob.missing, if the job wrote no such file.
    """
    if rows.claim(uow.session, job, held.executor) != held:
        raise DomainError("job.lost", job=job)
    return kind.keep(uow, order, result)


def record(uow: UnitOfWork, kind: AnyKind, job: str, held: Claim, order: Any, result: Any) -> bool:
    """Records the result of a job; returns False if its subject no longer waits for it, as when a commit was not confirmed.

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
    """Removes what a process left, unless another worker has the job by now and writes to the same place."""
    if kind.own_place or rows.still_ours(uow.session, job, held):
        kind.clear(uow, order)


def fail(uow: UnitOfWork, kind: AnyKind, job: str, problem: dict[str, Any]) -> None:
    """Records a failure on the subject of a job, unless it does not wait for this job: it was recorded, or begun again since."""
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
    """Returns the subject of a job, locked, if it waits for this job."""
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
