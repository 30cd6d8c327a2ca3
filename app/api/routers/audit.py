"""/audit: who did what to what, when and from where, as JSON lines."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import StreamingResponse

from app.api.routing import api_router
from app.api.schemas.system import AuditOut
from app.db.events import Event
from app.http.access import Access, AccessDep
from app.http.broken_answers import BreakableResponse
from app.services.events import events

router = api_router(tags=["events"])

PAGE = 500
LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"$ref": "#/components/schemas/AuditOut"}}}, "model": AuditOut}
}


@router.get("/audit", response_class=StreamingResponse, responses=LINES)
def export_audit(
    access: AccessDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Only what happened after the line with this id.")] = 0,
) -> StreamingResponse:
    """Everything that was changed until now, oldest first, a line each. Needs scope operate; an admin sees all owners."""
    first = _page(access, after)
    return BreakableResponse(_lines(access, first), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})


def _page(access: Access, after: int) -> Sequence[Event]:
    with access.read() as (uow, principal):
        return events.audit(uow, principal, after, PAGE)


def _lines(access: Access, rows: Sequence[Event]) -> Iterator[str]:
    """Page by page, each in a transaction of its own: a slow reader holds none open."""
    is_admin = access.authenticate().is_admin
    while rows:
        yield "".join(f"{AuditOut.of(row, is_admin).model_dump_json()}\n" for row in rows)
        rows = _page(access, rows[-1].id) if len(rows) == PAGE else []
