"""/patches, their versions and aliases."""

from contextlib import suppress
from typing import Annotated

from fastapi import Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.routing import api_router
from app.api.schemas.base import Listing, ReasonIn
from app.api.schemas.patches import AliasIn, AliasOut, PatchChange, PatchIn, PatchOut, PublishIn, VersionIn, VersionOut
from app.api.schemas.purges import ErasureOut
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import parse_repository
from app.http.access import AccessDep
from app.http.body_routes import buffers_body
from app.http.deps import IfMatch, OnceDep, PageDep, row_etag
from app.http.long_work import publishing
from app.services.hubview import push_publishing
from app.services.hubview.push_publishing import Said
from app.services.operations import erasure, purges
from app.services.patches import drafts, patches, versions
from app.services.unit_of_work import UnitOfWork, run_with_retry

router = api_router(tags=["patches"])

Number = Annotated[int, Path(ge=0, lt=2**31, description="A version's number.")]  # the width of the column


@router.post("/patches", status_code=201, response_model=PatchOut)
def create_patch(body: PatchIn, once: OnceDep) -> object:
    """Create a patch. The same name in the same family again returns what is there (200)."""

    def make(uow: UnitOfWork, principal: Principal) -> tuple[int, PatchOut, str]:
        row, is_new = patches.create(uow, principal, body.owner, body.name, body.family, body.description, body.trained_on)
        return 201 if is_new else 200, PatchOut.of(row), f"/api/v1/patches/{row.full_name}"

    return once(make)


@router.get("/patches")
def list_patches(
    access: AccessDep,
    page: PageDep,
    owner: Annotated[str | None, Query(max_length=89)] = None,
    family: Annotated[str | None, Query(max_length=89)] = None,
) -> Listing[PatchOut]:
    """List the patches that the token may read, newest first."""
    with access.read() as (uow, principal):
        rows, cursor = page.cut(patches.list_page(uow, principal, owner, family, page.after, page.limit))
        return Listing[PatchOut](items=[PatchOut.of_line(line) for line in rows], next_cursor=cursor)


@router.get("/patches/{owner}/{patch}")
def get_patch(owner: str, patch: str, access: AccessDep, response: Response) -> PatchOut:
    """One patch with its aliases."""
    with access.read() as (uow, principal):
        row = patches.get(uow, principal, owner, patch)
        response.headers["ETag"] = row_etag(row)
        return PatchOut.of(row, patches.aliases(uow, row))


@router.patch("/patches/{owner}/{patch}")
def change_patch(owner: str, patch: str, body: PatchChange, access: AccessDep, response: Response, expected: IfMatch) -> PatchOut:
    """Change the description, or the release of pushes that do not tell; with If-Match only if nobody changed it meanwhile."""
    with access.write() as (uow, principal):
        row = patches.change(uow, principal, owner, patch, body.model_dump(exclude_unset=True), expected)
        response.headers["ETag"] = row_etag(row)
        return PatchOut.of(row, patches.aliases(uow, row))


@router.post("/patches/{owner}/{patch}/publish")
async def publish_push(
    owner: str, patch: str, body: PublishIn, request: Request, access: AccessDep
) -> VersionOut:  # fmt: skip
    """Publish what was pushed by the Hub protocol and does not tell what it was trained on."""
    repository, said = parse_repository(owner, patch), Said(body.trained_on, body.family)

    principal = access.authenticate()

    def seal() -> VersionOut:
        version = push_publishing.publish(access.registry, principal, repository, said)
        with access.read() as (uow, _):
            return VersionOut.of(versions.get(uow, principal, owner, patch, version.number or 0))

    async with publishing(request, principal.owner):
        return await run_in_threadpool(seal)


@router.put("/patches/{owner}/{patch}/aliases/{alias}")
def set_alias(
    owner: str,
    patch: str,
    alias: str,
    body: AliasIn,
    access: AccessDep,
    response: Response,
    expected: IfMatch,
) -> AliasOut:
    """Point an alias at a version."""
    with access.write() as (uow, principal):
        row = patches.set_alias(uow, principal, owner, patch, alias, body.version, expected)
        response.headers["ETag"] = row_etag(row)
        return AliasOut(patch=f"{owner}/{patch}", alias=row.name, version=row.version.number)


@router.post("/patches/{owner}/{patch}/versions", status_code=201, response_model=VersionOut)
@buffers_body(None)
def draft_version(owner: str, patch: str, body: VersionIn, once: OnceDep) -> object:
    """Announce the files of a version. Bytes that are published already return their version (200), nothing is to be sent."""

    def make(uow: UnitOfWork, principal: Principal) -> tuple[int, VersionOut, str]:
        announced = [drafts.AnnouncedFile(f.path, f.size, f.sha256) for f in body.files]
        row, is_new = drafts.draft(uow, principal, owner, patch, body.trained_on, announced)
        if is_new:
            return (
                201,
                VersionOut.of(row, drafts.received(uow, row), uow.tools.blobs.direct is not None),
                f"/api/v1/uploads/{row.id}",
            )
        return 200, VersionOut.of(row), f"/api/v1/patches/{owner}/{patch}/versions/{row.number}"

    return once(make)


@router.get("/patches/{owner}/{patch}/versions")
def list_versions(owner: str, patch: str, access: AccessDep, page: PageDep) -> Listing[VersionOut]:
    """List published versions, newest first."""
    with access.read() as (uow, principal):
        rows, cursor = page.cut(versions.list_page(uow, principal, owner, patch, page.after, page.limit))
        return Listing[VersionOut](items=[VersionOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/patches/{owner}/{patch}/versions/{number}")
def get_version(owner: str, patch: str, number: Number, access: AccessDep, response: Response) -> VersionOut:
    """One version."""
    with access.read() as (uow, principal):
        row = versions.get(uow, principal, owner, patch, number)
        response.headers["ETag"] = row_etag(row)
        return VersionOut.of(row)


@router.post("/patches/{owner}/{patch}/versions/{number}/yank")
def yank_version(owner: str, patch: str, number: Number, body: ReasonIn, access: AccessDep, expected: IfMatch) -> VersionOut:
    """Hide a version from selection; ports that are ready go on."""
    with access.write() as (uow, principal):
        return VersionOut.of(versions.yank(uow, principal, owner, patch, number, body.reason, expected))


@router.post("/patches/{owner}/{patch}/versions/{number}/purge")
def purge_version(owner: str, patch: str, number: Number, body: ReasonIn, access: AccessDep, expected: IfMatch) -> VersionOut:
    """Erase a version's bytes everywhere, for good; a tombstone stays.

    From the moment of this answer nothing of it is read (410, version.purged), by no port and on no worker; a download that has
    begun breaks off within seconds. `erasure` says what was removed, what is kept because other versions have the same bytes,
    and what is not removed yet: the service goes on trying. The same request again tries at once. The same files are not taken
    again for this owner.
    """
    principal = access.authenticate()
    ident = run_with_retry(
        access.registry.write, lambda uow: purges.purge(uow, principal, owner, patch, number, body.reason, expected).id
    )
    with suppress(DomainError):  # the tombstone stands; maintenance continues the erasure
        erasure.erase(access.registry, ident)
    with access.read() as (uow, _):
        return VersionOut.of(versions.get(uow, principal, owner, patch, number))


@router.get("/patches/{owner}/{patch}/versions/{number}/erasure")
def verify_erasure(owner: str, patch: str, number: Number, access: AccessDep) -> ErasureOut:
    """Ask the stores now what is there of a purged version; removes nothing and keeps no record."""
    with access.read() as (uow, principal):
        ident = purges.purged(uow, principal, owner, patch, number).id
    return ErasureOut(**erasure.verify(access.registry, ident))
