"""/imports: patches brought in from other hubs, by jobs."""

from functools import partial
from typing import Annotated, Literal

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.routing import api_router
from app.api.schemas.base import Listing
from app.api.schemas.imports import BatchOut, ImportIn, ImportOut
from app.domain.principal import Principal
from app.http.access import AccessDep
from app.http.deps import OnceDep, PageDep, row_etag
from app.http.long_work import look_up
from app.services.patches import imports
from app.services.unit_of_work import UnitOfWork

router = api_router(tags=["upstreams and imports"])

State = Literal["queued", "running", "imported", "present", "refused", "cancelled"]


@router.post("/imports", status_code=202, response_model=BatchOut)
async def import_patches(
    body: ImportIn, request: Request, once: OnceDep, access: AccessDep
) -> object:  # fmt: skip
    """Import patches from other hubs, each by a job of its own. Needs scope publish.

    The family is found by what the adapter's configuration calls its base (see the names of a family). A repository at a commit
    that was imported before is not fetched again.
    """
    if repeated := await run_in_threadpool(once.repeat):
        return repeated
    wish, principal = body.wish(), access.authenticate()
    ask = partial(imports.look_up, access.registry.read, principal, wish)
    found = await (look_up(request, principal.owner, ask) if wish.names_organisation else run_in_threadpool(ask))

    def make(uow: UnitOfWork, principal: Principal) -> tuple[int, BatchOut, str]:
        batch, rows = imports.request(uow, principal, wish, found)
        return 202, BatchOut(batch=batch, count=len(rows)), f"/api/v1/imports?batch={batch}"

    return await run_in_threadpool(once, make)


@router.get("/imports")
def list_imports(
    access: AccessDep,
    page: PageDep,
    batch: Annotated[str | None, Query(max_length=40, description="Only those that were begun together.")] = None,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
) -> Listing[ImportOut]:
    """List imports, newest first."""
    with access.read() as (uow, principal):
        rows, cursor = page.cut(imports.list_page(uow, principal, batch, state, page.after, page.limit))
        return Listing(items=[ImportOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/imports/{ident}")
def get_import(ident: str, access: AccessDep, response: Response) -> ImportOut:
    """One import."""
    with access.read() as (uow, principal):
        row = imports.get(uow, principal, ident)
        response.headers["ETag"] = row_etag(row)
        return ImportOut.of(row)
