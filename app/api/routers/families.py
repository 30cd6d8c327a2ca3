"""/families and their releases."""

from functools import partial
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.routing import api_router
from app.api.schemas.base import Listing, ReasonIn
from app.api.schemas.families import FamilyIn, FamilyOut, GrantsOut, ReleaseIn, ReleaseOut
from app.db.families import Family
from app.domain.principal import Principal
from app.domain.states import ReleaseState
from app.domain.upstreams import is_reference
from app.http.access import AccessDep
from app.http.deps import IfMatch, OnceDep, PageDep, row_etag
from app.http.long_work import look_up
from app.services.access import grants
from app.services.catalog import families, release_sources, releases
from app.services.unit_of_work import UnitOfWork

router = api_router(tags=["families and releases"])


@router.post("/families", status_code=201, response_model=FamilyOut)
def create_family(body: FamilyIn, once: OnceDep) -> object:
    """Create a family, which only admins see until it is granted to others. Needs scope admin."""

    def make(uow: UnitOfWork, principal: Principal) -> tuple[int, FamilyOut, str]:
        row = families.create(uow, principal, body.name, body.description, body.readers)
        return 201, FamilyOut.of(row), f"/api/v1/families/{row.name}"

    return once(make)


@router.get("/families")
def list_families(access: AccessDep, page: PageDep) -> Listing[FamilyOut]:
    """List the families that the token may see, newest first."""
    with access.read() as (uow, principal):
        rows, cursor = page.cut(families.list_page(uow, principal, page.after, page.limit))
        return Listing(items=[FamilyOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/families/{family}")
def get_family(family: str, access: AccessDep) -> FamilyOut:
    """One family."""
    with access.read() as (uow, principal):
        return FamilyOut.of(families.get(uow, principal, family))


@router.get("/families/{family}/grants")
def list_grants(family: str, access: AccessDep) -> GrantsOut:
    """Who may see a family, besides admins. Needs scope admin."""
    with access.read() as (uow, principal):
        return _grants(uow, principal, families.get(uow, principal, family))


@router.put("/families/{family}/grants/{reader}")
def grant_family(family: str, reader: str, access: AccessDep) -> GrantsOut:
    """Let an owner, or everybody (`*`), see a family and use its releases. Needs scope admin."""
    with access.write() as (uow, principal):
        row = families.get(uow, principal, family)
        grants.grant(uow, principal, row, reader)
        return _grants(uow, principal, row)


@router.delete("/families/{family}/grants/{reader}")
def withdraw_family(family: str, reader: str, access: AccessDep) -> GrantsOut:
    """Take a grant back, at once. Needs scope admin."""
    with access.write() as (uow, principal):
        row = families.get(uow, principal, family)
        grants.withdraw(uow, principal, row, reader)
        return _grants(uow, principal, row)


@router.post("/families/{family}/releases", status_code=202, response_model=ReleaseOut)
async def register_release(
    family: str, body: ReleaseIn, request: Request, once: OnceDep, access: AccessDep
) -> object:  # fmt: skip
    """Register a release from a directory where the service runs, S3 or another hub; a job reads it. Needs scope admin.

    The same source again returns the release that is there (200); a rejected one is read again. Of another hub, the commit that
    the revision means now is registered: the job downloads it, goes on where it was cut, and verifies every file.
    """
    if repeated := await run_in_threadpool(once.repeat):
        return repeated
    listed = None
    if is_reference(body.directory):
        principal = access.authenticate()
        ask = partial(release_sources.look_up, access.registry.read, principal, body.directory)
        listed = await look_up(request, principal.owner, ask)

    def make(uow: UnitOfWork, principal: Principal) -> tuple[int, ReleaseOut, str]:
        row, is_new = releases.register(uow, principal, family, body.name, body.directory, body.parent, body.copy_files, listed)
        status = 202 if is_new or row.state == "ingesting" else 200
        return status, ReleaseOut.of(row), f"/api/v1/families/{family}/releases/{body.name}"

    return await run_in_threadpool(once, make)


@router.get("/families/{family}/releases")
def list_releases(
    family: str,
    access: AccessDep,
    page: PageDep,
    state: Annotated[ReleaseState | None, Query(description="Only releases in this state.")] = None,
) -> Listing[ReleaseOut]:
    """List a family's releases, newest first."""
    with access.read() as (uow, principal):
        rows, cursor = page.cut(releases.list_page(uow, principal, family, state, page.after, page.limit))
        return Listing(items=[ReleaseOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/releases")
def list_all_releases(access: AccessDep, page: PageDep) -> Listing[ReleaseOut]:
    """List the releases of all families that the token may see, newest first."""
    with access.read() as (uow, principal):
        rows, cursor = page.cut(releases.list_page(uow, principal, None, None, page.after, page.limit))
        return Listing(items=[ReleaseOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/families/{family}/releases/{release}")
def get_release(family: str, release: str, access: AccessDep, response: Response) -> ReleaseOut:
    """One release."""
    with access.read() as (uow, principal):
        row = releases.get(uow, principal, family, release)
        response.headers["ETag"] = row_etag(row)
        return ReleaseOut.of(row)


@router.post("/families/{family}/releases/{release}/yank")
def yank_release(family: str, release: str, body: ReasonIn, access: AccessDep, expected: IfMatch) -> ReleaseOut:
    """Hide a release from selection; reads that are pinned to it go on. Needs scope admin."""
    with access.write() as (uow, principal):
        return ReleaseOut.of(releases.yank(uow, principal, family, release, body.reason, expected))


def _grants(uow: UnitOfWork, principal: Principal, family: Family) -> GrantsOut:
    return GrantsOut(family=family.name, readers=[row.owner for row in grants.of_family(uow, principal, family)])
