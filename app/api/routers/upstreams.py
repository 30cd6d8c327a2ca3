"""/upstreams: hubs that this registry pulls from."""

from fastapi import Response

from app.api.routing import api_router
from app.api.schemas.upstreams import UpstreamIn, UpstreamOut, UpstreamsOut
from app.http.deps import PrincipalDep, ReadUnit, WriteUnit
from app.http.single_hop import at_once
from app.services.catalog import upstreams

router = api_router(tags=["upstreams and imports"])


@router.get("/upstreams")
@at_once
def list_upstreams(uow: ReadUnit, principal: PrincipalDep) -> UpstreamsOut:
    """List the hubs that this registry pulls from, by name. Needs scope admin."""
    return UpstreamsOut(items=[UpstreamOut.of(found) for found in upstreams.list_all(uow, principal)])


@router.get("/upstreams/{upstream}")
@at_once
def get_upstream(upstream: str, uow: ReadUnit, principal: PrincipalDep) -> UpstreamOut:
    """One upstream; its token is never shown. Needs scope admin."""
    return UpstreamOut.of(upstreams.get(uow, principal, upstream))


@router.put("/upstreams/{upstream}")
def put_upstream(upstream: str, body: UpstreamIn, uow: WriteUnit, response: Response, principal: PrincipalDep) -> UpstreamOut:
    """Add an upstream, or say everything about it anew; a token that is not given again is forgotten. Needs scope admin."""
    found, is_new = upstreams.put(
        uow, principal, upstream, body.endpoint, body.token, body.private_hosts, body.http_hosts, body.publishers
    )
    response.status_code = 201 if is_new else 200
    return UpstreamOut.of(found)


@router.delete("/upstreams/{upstream}")
def remove_upstream(upstream: str, uow: WriteUnit, principal: PrincipalDep) -> UpstreamOut:
    """Forget an upstream and its token; what was pulled from it stays. Needs scope admin."""
    return UpstreamOut.of(upstreams.remove(uow, principal, upstream))
