"""/imports: patches brought in from other hubs, by jobs."""

from functools import partial
from typing import Annotated, Literal

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.routing import api_router
from app.api.schemas.base import Listing
from app.api.schemas.imports import BatchOut, ImportIn, ImportOut
from app.http.deps import OnceDep, PageDep, PrincipalDep, ReadUnit, RegistryDep, row_etag
from app.http.long_work import look_up
from app.http.single_hop import at_once
from app.services.patches import imports
from app.services.unit_of_work import UnitOfWork

router = api_router(tags=["upstreams and imports"])

State = Literal["queued", "running", "imported", "present", "refused", "cancelled"]


@router.post("/imports", status_code=202, response_model=BatchOut)
async def import_patches(
    body: ImportIn, request: Request, once: OnceDep, registry: RegistryDep, principal: PrincipalDep
) -> object:  # fmt: skip
    """Import patches from other hubs, each by a job of its own. Needs scope publish.

    The family is found by what the adapter's configuration calls its base (see the names of a family). A repository at a commit
    that was imported before is not fetched again.
    """
    if repeated := await run_in_threadpool(once.repeat):
        return repeated
    wish = body.wish()
    ask = partial(imports.look_up, registry.read, principal, wish)
    found = await (look_up(request, principal.owner, ask) if wish.names_organisation else run_in_threadpool(ask))

    def make(uow: UnitOfWork) -> tuple[int, BatchOut, str]:
        batch, rows = imports.request(uow, principal, wish, found)
        return 202, BatchOut(batch=batch, count=len(rows)), f"/api/v1/imports?batch={batch}"

    return await run_in_threadpool(once, make)


@router.get("/imports")
@at_once
def list_imports(
    uow: ReadUnit,
    page: PageDep,
    principal: PrincipalDep,
    batch: Annotated[str | None, Query(max_length=40, description="Only those that were begun together.")] = None,
    state: Annotated[State | None, Query(description="Only those in this state.")] = None,
) -> Listing[ImportOut]:
    """List imports, newest first."""
    rows, cursor = page.cut(imports.list_page(uow, principal, batch, state, page.after, page.limit))
    return Listing(items=[ImportOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/imports/{ident}")
@at_once
def get_import(ident: str, uow: ReadUnit, response: Response, principal: PrincipalDep) -> ImportOut:
    """One import."""
    row = imports.get(uow, principal, ident)
    response.headers["ETag"] = row_etag(row)
    return ImportOut.of(row)
