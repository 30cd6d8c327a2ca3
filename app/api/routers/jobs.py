"""/jobs and /workers: long work, and who does it."""

from typing import Annotated, Literal

from fastapi import Query, Response

from app.api.routing import api_router
from app.api.schemas.base import Listing
from app.api.schemas.jobs import JobOut, WorkerOut, WorkersOut
from app.http.deps import JobPageDep, PrincipalDep, ReadUnit, RegistryDep, WriteUnit
from app.http.single_hop import at_once
from app.services.jobs import jobs, workers

router = api_router(tags=["jobs"])

State = Annotated[
    Literal["queued", "running", "done", "failed", "cancelled"] | None, Query(description="Only jobs in this state.")
]
Kind = Annotated[str | None, Query(max_length=40, pattern="^[a-z_]+$", description="Only jobs of this kind, for example ingest.")]


@router.get("/jobs")
@at_once
def list_jobs(
    uow: ReadUnit, page: JobPageDep, principal: PrincipalDep, state: State = None, kind: Kind = None
) -> Listing[JobOut]:
    """The jobs of the token's owner, newest first; an admin sees all."""
    found, cursor = page.cut(jobs.list_page(uow, principal, kind, state, page.after, page.limit))
    return Listing(items=[JobOut.of(j) for j in found], next_cursor=cursor)


@router.get("/jobs/{job}")
@at_once
def get_job(job: str, uow: ReadUnit, principal: PrincipalDep) -> JobOut:
    """One job with its progress."""
    return JobOut.of(jobs.get(uow, principal, job))


@router.post("/jobs/{job}/cancel", status_code=202)
def cancel_job(job: str, uow: WriteUnit, principal: PrincipalDep) -> JobOut:
    """Stop a job; its process ends within seconds, whichever worker has it."""
    return JobOut.of(jobs.cancel(uow, principal, job))


@router.post("/jobs/{job}/retry", status_code=202)
def retry_job(job: str, uow: WriteUnit, response: Response, principal: PrincipalDep) -> JobOut:
    """Start a job that failed or was cancelled once more; the answer is the new job."""
    again = jobs.retry(uow, principal, job)
    response.headers["Location"] = f"/api/v1/jobs/{again.id}"
    return JobOut.of(again)


@router.get("/workers")
@at_once
def list_workers(uow: ReadUnit, registry: RegistryDep, principal: PrincipalDep) -> WorkersOut:
    """The workers with what they do, the longest running first; one that is dead is shown for a day. Needs scope admin."""
    return WorkersOut(items=[WorkerOut.of(w) for w in workers.everyone(uow, principal, registry.worker_ttl)])
