"""Middleware for every request: sets its id, refuses control characters in its URL, and adds security headers for browsers."""

import json
import re
import secrets
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.errors import DomainError
from app.domain.log_context import REQUEST_ID
from app.http.problems import MEDIA_TYPE, body_of
from app.http.security_headers import INERT, NO_SNIFF

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestFrame:
    """Pure ASGI middleware, so that bodies and answers are streamed through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        REQUEST_ID.set(request_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = _completed(message["headers"], request_id)
            await send(message)

        # Routes are matched up to a line's end: /metrics%0A would be /metrics here, and something else to a proxy. Zeros are in
        # no name of ours; PostgreSQL would refuse to look for them, SQLite would not: one answer for both.
        if _CONTROL.search(scope["path"]) or b"%00" in scope["query_string"]:
            await _refuse(send_with_id, DomainError("request.invalid", reason="The address holds a control character."), 422)
            return
        await self._app(scope, receive, send_with_id)


def _completed(headers: list[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with its id, and with what a browser is told of it; a page says itself what it may do."""
    others = [header for header in headers if header[0] not in (b"x-request-id", NO_SNIFF[0])]
    told = () if any(name == INERT[0] for name, _ in others) else (INERT,)
    return [*others, (b"x-request-id", request_id.encode()), NO_SNIFF, *told]


async def _refuse(send: Send, error: DomainError, status: int) -> None:
    body = json.dumps(body_of(error, status)).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
