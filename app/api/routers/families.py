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
from app.http.deps import IfMatch, OnceDep, PageDep, PrincipalDep, ReadUnit, RegistryDep, WriteUnit, row_etag
from app.http.long_work import look_up
from app.http.single_hop import at_once
from app.services.access import grants
from app.services.catalog import families, release_sources, releases
from app.services.unit_of_work import UnitOfWork

router = api_router(tags=["families and releases"])


@router.post("/families", status_code=201, response_model=FamilyOut)
def create_family(body: FamilyIn, once: OnceDep, principal: PrincipalDep) -> object:
    """Create a family, which only admins see until it is granted to others. Needs scope admin."""

    def make(uow: UnitOfWork) -> tuple[int, FamilyOut, str]:
        row = families.create(uow, principal, body.name, body.description, body.readers)
        return 201, FamilyOut.of(row), f"/api/v1/families/{row.name}"

    return once(make)


@router.get("/families")
@at_once
def list_families(uow: ReadUnit, page: PageDep, principal: PrincipalDep) -> Listing[FamilyOut]:
    """List the families that the token may see, newest first."""
    rows, cursor = page.cut(families.list_page(uow, principal, page.after, page.limit))
    return Listing(items=[FamilyOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/families/{family}")
@at_once
def get_family(family: str, uow: ReadUnit, principal: PrincipalDep) -> FamilyOut:
    """One family."""
    return FamilyOut.of(families.get(uow, principal, family))


@router.get("/families/{family}/grants")
@at_once
def list_grants(family: str, uow: ReadUnit, principal: PrincipalDep) -> GrantsOut:
    """Who may see a family, besides admins. Needs scope admin."""
    return GrantsOut(
        family=family, readers=[row.owner for row in grants.of_family(uow, principal, families.get(uow, principal, family))]
    )


@router.put("/families/{family}/grants/{reader}")
def grant_family(family: str, reader: str, uow: WriteUnit, principal: PrincipalDep) -> GrantsOut:
    """Let an owner, or everybody (`*`), see a family and use its releases. Needs scope admin."""
    grants.grant(uow, principal, families.get(uow, principal, family), reader)
    return GrantsOut(
        family=family, readers=[row.owner for row in grants.of_family(uow, principal, families.get(uow, principal, family))]
    )


@router.delete("/families/{family}/grants/{reader}")
def withdraw_family(family: str, reader: str, uow: WriteUnit, principal: PrincipalDep) -> GrantsOut:
    """Take a grant back, at once. Needs scope admin."""
    grants.withdraw(uow, principal, families.get(uow, principal, family), reader)
    return GrantsOut(
        family=family, readers=[row.owner for row in grants.of_family(uow, principal, families.get(uow, principal, family))]
    )


@router.post("/families/{family}/releases", status_code=202, response_model=ReleaseOut)
async def register_release(
    family: str, body: ReleaseIn, request: Request, once: OnceDep, registry: RegistryDep, principal: PrincipalDep
) -> object:  # fmt: skip
    """Register a release from a directory where the service runs, S3 or another hub; a job reads it. Needs scope admin.

    The same source again returns the release that is there (200); a rejected one is read again. Of another hub, the commit that
    the revision means now is registered: the job downloads it, goes on where it was cut, and verifies every file.
    """
    if repeated := await run_in_threadpool(once.repeat):
        return repeated
    listed = None
    if is_reference(body.directory):
        listed = await look_up(
            request, principal.owner, partial(release_sources.look_up, registry.read, principal, body.directory)
        )

    def make(uow: UnitOfWork) -> tuple[int, ReleaseOut, str]:
        row, is_new = releases.register(uow, principal, family, body.name, body.directory, body.parent, body.copy_files, listed)
        status = 202 if is_new or row.state == "ingesting" else 200
        return status, ReleaseOut.of(row), f"/api/v1/families/{family}/releases/{body.name}"

    return await run_in_threadpool(once, make)


@router.get("/families/{family}/releases")
@at_once
def list_releases(
    family: str,
    uow: ReadUnit,
    page: PageDep,
    principal: PrincipalDep,
    state: Annotated[ReleaseState | None, Query(description="Only releases in this state.")] = None,
) -> Listing[ReleaseOut]:
    """List a family's releases, newest first."""
    rows, cursor = page.cut(releases.list_page(uow, principal, family, state, page.after, page.limit))
    return Listing(items=[ReleaseOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/releases")
@at_once
def list_all_releases(uow: ReadUnit, page: PageDep, principal: PrincipalDep) -> Listing[ReleaseOut]:
    """List the releases of all families that the token may see, newest first."""
    rows, cursor = page.cut(releases.list_page(uow, principal, None, None, page.after, page.limit))
    return Listing(items=[ReleaseOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/families/{family}/releases/{release}")
@at_once
def get_release(family: str, release: str, uow: ReadUnit, response: Response, principal: PrincipalDep) -> ReleaseOut:
    """One release."""
    row = releases.get(uow, principal, family, release)
    response.headers["ETag"] = row_etag(row)
    return ReleaseOut.of(row)


@router.post("/families/{family}/releases/{release}/yank")
def yank_release(
    family: str, release: str, body: ReasonIn, uow: WriteUnit, principal: PrincipalDep, expected: IfMatch
) -> ReleaseOut:
    """Hide a release from selection; reads that are pinned to it go on. Needs scope admin."""
    return ReleaseOut.of(releases.yank(uow, principal, family, release, body.reason, expected))


def _grants(uow: UnitOfWork, principal: Principal, family: Family) -> GrantsOut:
    return GrantsOut(family=family.name, readers=[row.owner for row in grants.of_family(uow, principal, family)])
