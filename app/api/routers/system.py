"""/tokens, /whoami, /events."""

import datetime as dt
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Response
from fastapi.concurrency import run_in_threadpool

from app.api.event_streams import EventStream, EventStreams, get_event_streams
from app.api.routing import api_router
from app.api.schemas.base import Listing
from app.api.schemas.system import EventOut, EventsOut, NewTokenOut, RotateIn, TokenIn, TokenOut, WhoAmIOut
from app.domain.principal import role_of
from app.http.access import Access, AccessDep
from app.http.deps import PageDep
from app.services.access import tokens
from app.services.events import events

router = api_router()

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": {"type": "string", "description": "`id`, `event` and `data`, an EventOut."}}}
    }
}


@router.get("/whoami", tags=["tokens"])
def who_am_i(access: AccessDep) -> WhoAmIOut:
    """Who the token speaks for."""
    with access.read() as (uow, principal):
        row = tokens.own(uow, principal)
        return WhoAmIOut(
            owner=row.owner, scopes=sorted(row.scopes), role=role_of(row.scopes), token=row.id, expires_at=row.expires_at
        )


@router.post("/tokens", status_code=201, tags=["tokens"])
def create_token(body: TokenIn, access: AccessDep, response: Response) -> NewTokenOut:
    """Make a token; its secret is in this answer and nowhere else. Needs scope operate, for other owners admin."""
    with access.write() as (uow, principal):
        row, secret = tokens.create(uow, principal, body.owner, body.wanted(), body.name, body.lifetime())
        response.headers["Cache-Control"] = "no-store"
        return NewTokenOut(**TokenOut.of(row).model_dump(), token=secret)


@router.get("/tokens", tags=["tokens"])
def list_tokens(access: AccessDep, page: PageDep) -> Listing[TokenOut]:
    """List the owner's tokens, without secrets; an admin sees all. Needs scope operate."""
    with access.read() as (uow, principal):
        rows, cursor = page.cut(tokens.list_page(uow, principal, page.after, page.limit))
        return Listing(items=[TokenOut.of(r) for r in rows], next_cursor=cursor)


@router.delete("/tokens/{token}", tags=["tokens"])
def revoke_token(
    token: str,
    access: AccessDep,
    with_made: Annotated[bool, Query(description="Also revoke what was made or rotated with it, in turn.")] = False,
) -> TokenOut:
    """Revoke a token, at once. Needs scope operate, or to be the token itself."""
    with access.write() as (uow, principal):
        return TokenOut.of(tokens.revoke(uow, principal, token, with_made))


@router.post("/tokens/{token}/rotate", status_code=201, tags=["tokens"])
def rotate_token(token: str, body: RotateIn, access: AccessDep, response: Response) -> NewTokenOut:
    """Make a token like this one, which ends, at once or after a grace. Needs scope operate, or to be the token itself."""
    with access.write() as (uow, principal):
        row, secret = tokens.rotate(uow, principal, token, dt.timedelta(seconds=body.grace))
        response.headers["Cache-Control"] = "no-store"
        return NewTokenOut(**TokenOut.of(row).model_dump(), token=secret)


@router.get("/events", tags=["events"], response_model=EventsOut, responses=STREAM)
async def list_events(
    streams: Annotated[EventStreams, Depends(get_event_streams)],
    access: AccessDep,
    after: Annotated[int, Query(ge=0, lt=2**63, description="The cursor of the answer before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    accept: Annotated[str, Header(max_length=1000)] = "",
    last_event_id: Annotated[int | None, Header(ge=0, lt=2**63, description="Sent by a stream that reconnects.")] = None,
) -> object:
    """What happened, oldest first; a live stream when asked for text/event-stream."""
    cursor = last_event_id if last_event_id is not None else after
    if "text/event-stream" in accept:
        return EventStream(streams, await run_in_threadpool(access.authenticate), cursor)
    found = await run_in_threadpool(_events, access, cursor, limit)
    return EventsOut(items=found, cursor=found[-1].id if found else cursor)


def _events(access: Access, cursor: int, limit: int) -> list[EventOut]:
    with access.read() as (uow, principal):
        return [EventOut.of(row, principal.is_admin) for row in events.after(uow, principal, cursor, limit)]
