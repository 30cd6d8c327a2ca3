"""/ports: check, create, decide; and the digests of their computed files."""

from typing import Annotated

from fastapi import Query, Response

from app.api.routing import api_router
from app.api.schemas.base import Listing, ReasonIn
from app.api.schemas.ports import DigestOut, PortIn, PortOut, VerdictOut
from app.domain.events.ports import PortContents
from app.domain.principal import Principal
from app.domain.states import PortState
from app.http.access import AccessDep
from app.http.deps import IfMatch, OnceDep, PageDep, row_etag
from app.services.patches.tombstones import reread_if_purged
from app.services.ports import port_digests, ports
from app.services.ports.ports import Verdict
from app.services.unit_of_work import UnitOfWork, run_with_retry

router = api_router(tags=["ports"])


@router.post("/ports/check")
def check_port(body: PortIn, access: AccessDep) -> VerdictOut:
    """Say whether a patch can be carried to a release, and why. Stores no port."""

    def assess() -> Verdict:
        with access.read() as (uow, principal):
            case = ports.find(uow, principal, body.wish())
        return ports.assess(access.registry.tools, case, body.force)

    verdict = reread_if_purged(assess)
    if verdict.lineage:
        run_with_retry(access.registry.write, lambda uow: ports.remember_lineage(uow, verdict))
    return VerdictOut.of(verdict)


@router.post("/ports", status_code=201, response_model=PortOut)
def create_port(body: PortIn, access: AccessDep, once: OnceDep) -> object:
    """Carry a patch version to a release. The answer's state is ready, held or refused, with the findings.

    The same wish again returns the port that is there (200).
    """
    if repeated := once.repeat():
        return repeated
    wish = body.wish()

    def assess() -> Verdict:
        with access.read() as (uow, principal):
            case = ports.find(uow, principal, wish)
        return ports.with_contents(access.registry.tools, ports.assess(access.registry.tools, case, wish.force))

    verdict = reread_if_purged(assess)

    def make(uow: UnitOfWork, principal: Principal) -> tuple[int, PortOut, str]:
        row, is_new = ports.create(uow, principal, verdict, wish.force)
        return 201 if is_new else 200, PortOut.of(row), f"/api/v1/ports/{row.id}"

    return once(make)


@router.get("/ports")
def list_ports(
    access: AccessDep,
    page: PageDep,
    patch: Annotated[str | None, Query(max_length=200, description="owner/name")] = None,
    version: Annotated[str | None, Query(max_length=89, description="Number or alias; with patch")] = None,
    family: Annotated[str | None, Query(max_length=89, description="With patch: the patch's")] = None,
    release: Annotated[str | None, Query(max_length=89, description="With patch or family")] = None,
    state: Annotated[PortState | None, Query(description="Only ports in this state.")] = None,
) -> Listing[PortOut]:
    """List ports, newest first."""
    with access.read() as (uow, principal):
        found = ports.list_page(uow, principal, patch, version, family, release, state, page.after, page.limit)
        rows, cursor = page.cut(found)
        return Listing[PortOut](items=[PortOut.of_line(line) for line in rows], next_cursor=cursor)


@router.get("/ports/{port}")
def get_port(port: str, access: AccessDep, response: Response) -> PortOut:
    """One port."""
    with access.read() as (uow, principal):
        row = ports.get(uow, principal, port)
        response.headers["ETag"] = row_etag(row)
        return PortOut.of(row)


@router.post("/ports/{port}/approve")
def approve_port(port: str, body: ReasonIn, access: AccessDep, expected: IfMatch) -> PortOut:
    """Let a held port become ready, with a reason."""

    def read() -> PortContents | None:
        with access.read() as (uow, principal):
            row = ports.get(uow, principal, port)
        return ports.contents_to_approve(access.registry.tools, row)

    contents = reread_if_purged(read)
    with access.write() as (uow, principal):
        return PortOut.of(ports.approve(uow, principal, port, body.reason, expected, contents))


@router.post("/ports/{port}/retire")
def retire_port(port: str, access: AccessDep, expected: IfMatch) -> PortOut:
    """Take a port out of use."""
    with access.write() as (uow, principal):
        return PortOut.of(ports.retire(uow, principal, port, expected))


@router.post("/ports/{port}/digest", status_code=202, responses={200: {"model": DigestOut, "description": "They are known."}})
def digest_port(port: str, access: AccessDep, response: Response) -> DigestOut:
    """Compute the sha256 of every computed file and the exact merge fidelity, once, by a job (202); known ones come at once."""
    with access.write() as (uow, principal):
        row, job = port_digests.request(uow, principal, port)
        if job is None:
            response.status_code = 200
        else:
            response.headers["Location"] = f"/api/v1/jobs/{job}"
        return DigestOut(port=row.id, digests=row.digests, job=job)
