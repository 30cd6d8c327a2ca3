"""/upstreams: hubs that this registry pulls from."""

from fastapi import Response

from app.api.routing import api_router
from app.api.schemas.upstreams import UpstreamIn, UpstreamOut, UpstreamsOut
from app.http.access import AccessDep
from app.services.catalog import upstreams

router = api_router(tags=["upstreams and imports"])


@router.get("/upstreams")
def list_upstreams(access: AccessDep) -> UpstreamsOut:
    """List the hubs that this registry pulls from, by name. Needs scope admin."""
    with access.read() as (uow, principal):
        return UpstreamsOut(items=[UpstreamOut.of(found) for found in upstreams.list_all(uow, principal)])


@router.get("/upstreams/{upstream}")
def get_upstream(upstream: str, access: AccessDep) -> UpstreamOut:
    """One upstream; its token is never shown. Needs scope admin."""
    with access.read() as (uow, principal):
        return UpstreamOut.of(upstreams.get(uow, principal, upstream))


@router.put("/upstreams/{upstream}")
def put_upstream(upstream: str, body: UpstreamIn, access: AccessDep, response: Response) -> UpstreamOut:
    """Add an upstream, or say everything about it anew; a token that is not given again is forgotten. Needs scope admin."""
    with access.write() as (uow, principal):
        found, is_new = upstreams.put(
            uow, principal, upstream, body.endpoint, body.token, body.private_hosts, body.http_hosts, body.publishers
        )
        response.status_code = 201 if is_new else 200
        return UpstreamOut.of(found)


@router.delete("/upstreams/{upstream}")
def remove_upstream(upstream: str, access: AccessDep) -> UpstreamOut:
    """Forget an upstream and its token; what was pulled from it stays. Needs scope admin."""
    with access.write() as (uow, principal):
        return UpstreamOut.of(upstreams.remove(uow, principal, upstream))
