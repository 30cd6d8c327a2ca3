"""/audit: who did what to what, when and from where, as JSON lines."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import StreamingResponse

from app.api.routing import api_router
from app.api.schemas.system import AuditOut
from app.db.events import Event
from app.domain.principal import Principal
from app.http.broken_answers import BreakableResponse
from app.http.deps import PrincipalDep, RegistryDep
from app.services.events import events
from app.services.registry import Registry

router = api_router(tags=["events"])

PAGE = 500
LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/AuditOut"}}}, "model": AuditOut}
}


@router.get("/audit", response_class=StreamingResponse, responses=LINES)
def export_audit(
    registry: RegistryDep,
    principal: PrincipalDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only what happened after the line with this id.")] = 0,
) -> StreamingResponse:
    """Everything that was changed until now, oldest first, a line each. Needs scope operate; an admin sees all owners."""
    first = _page(registry, principal, after)
    return BreakableResponse(
        _lines(registry, principal, first), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"}
    )


def _page(registry: Registry, principal: Principal, after: int) -> Sequence[Event]:
    with registry.read() as uow:
        return events.audit(uow, principal, after, PAGE)


def _lines(registry: Registry, principal: Principal, rows: Sequence[Event]) -> Iterator[str]:
    """Page by page, each in a transaction of its own: a slow reader holds none open."""
    while rows:
        yield "".join(f"{AuditOut.of(row, principal.is_admin).model_dump_json()}\n" for row in rows)
        rows = _page(registry, principal, rows[-1].id) if len(rows) == PAGE else []
