"""/jobs and /workers: long work, and who does it."""

from typing import Annotated, Literal

from fastapi import Query, Response

from app.api.routing import api_router
from app.api.schemas.base import Listing
from app.api.schemas.jobs import JobOut, WorkerOut, WorkersOut
from app.http.access import AccessDep
from app.http.deps import JobPageDep
from app.services.jobs import jobs, workers

router = api_router(tags=["jobs"])

State = Annotated[
    Literal["queued", "running", "done", "failed", "cancelled"] | None, Query(description="Only jobs in this state.")
]
Kind = Annotated[str | None, Query(max_length=40, pattern="^[a-z_]+$", description="Only jobs of this kind, for example ingest.")]


@router.get("/jobs")
def list_jobs(access: AccessDep, page: JobPageDep, state: State = None, kind: Kind = None) -> Listing[JobOut]:
    """The jobs of the token's owner, newest first; an admin sees all."""
    with access.read() as (uow, principal):
        found, cursor = page.cut(jobs.list_page(uow, principal, kind, state, page.after, page.limit))
        return Listing(items=[JobOut.of(j) for j in found], next_cursor=cursor)


@router.get("/jobs/{job}")
def get_job(job: str, access: AccessDep) -> JobOut:
    """One job with its progress."""
    with access.read() as (uow, principal):
        return JobOut.of(jobs.get(uow, principal, job))


@router.post("/jobs/{job}/cancel", status_code=202)
def cancel_job(job: str, access: AccessDep) -> JobOut:
    """Stop a job; its process ends within seconds, whichever worker has it."""
    with access.write() as (uow, principal):
        return JobOut.of(jobs.cancel(uow, principal, job))


@router.post("/jobs/{job}/retry", status_code=202)
def retry_job(job: str, access: AccessDep, response: Response) -> JobOut:
    """Start a job that failed or was cancelled once more; the answer is the new job."""
    with access.write() as (uow, principal):
        again = jobs.retry(uow, principal, job)
        response.headers["Location"] = f"/api/v1/jobs/{again.id}"
        return JobOut.of(again)


@router.get("/workers")
def list_workers(access: AccessDep) -> WorkersOut:
    """The workers with what they do, the longest running first; one that is dead is shown for a day. Needs scope admin."""
    with access.read() as (uow, principal):
        return WorkersOut(items=[WorkerOut.of(w) for w in workers.everyone(uow, principal, access.registry.worker_ttl)])
