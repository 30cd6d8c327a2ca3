"""Around every request: an id, bounds on JSON bodies, their digest for idempotent repeats; and what browsers are told."""

import hashlib
import json
import re
import secrets
from typing import Any

from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.context import REQUEST_ID
from app.domain.errors import DomainError
from app.wire.browsers import INERT, NO_SNIFF
from app.wire.deps import bearer, get_principal
from app.wire.problems import MEDIA_TYPE, body_of, status_of
from app.wire.sizes import limit_of, require_simple

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
API = "/api/v1/"
# Bodies that are taken while they arrive, with bounds of their own, after it is known who sends them.
_STREAMED = re.compile(rf"PATCH {API}uploads/|PUT /api/objects/|POST /cas/|POST /api/models/[^/]+/[^/]+/commit/")
STRANGERS_BYTES = 64 * 2**10  # of a body that are read before its sender is known


class RequestBounds:
    """Pure ASGI, so that streamed bodies pass through untouched."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app, self._limit = app, max_body_bytes

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
        if _STREAMED.match(f"{scope['method']} {scope['path']}"):
            await self._app(scope, receive, send_with_id)
            return
        try:
            whole = await self._body(scope, receive)
        except DomainError as error:
            await _refuse(send_with_id, error, status_of(error))
            return
        if whole is None:
            return
        state["body_sha256"] = hashlib.sha256(whole).hexdigest()
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": whole, "more_body": False}

        await self._app(scope, replay, send_with_id)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, or None where the client went away.

        Raises:
            DomainError: request.too_large, request.too_complex; token.missing or token.expired, where a large one comes from
                a stranger.
        """
        # No list of pieces: of two bytes each, they would take twenty times as much.
        body, limit = bytearray(), limit_of(scope["path"], API, self._limit)
        is_known = False
        more = scope["method"] not in ("GET", "HEAD")
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > limit:
                raise DomainError("request.too_large", what="the body", size=len(body), limit=limit)
            if len(body) > STRANGERS_BYTES and not is_known:
                await _require_token(scope)
                is_known = True
        require_simple(body)
        return bytes(body)


def _completed(headers: list[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """The headers of an answer with its id, and with what a browser is told of it; a page says itself what it may do."""
    others = [header for header in headers if header[0] not in (b"x-request-id", NO_SNIFF[0])]
    told = () if any(name == INERT[0] for name, _ in others) else (INERT,)
    return [*others, (b"x-request-id", request_id.encode()), NO_SNIFF, *told]


async def _require_token(scope: Scope) -> None:
    """Raises `DomainError` unless a valid token came with a request.

    FastAPI parses a body before it asks who sent it: eight strangers with 8 MiB of brackets each took a gigabyte, and held
    the loop that everybody waits for.
    """
    request = Request(scope)
    credentials = await bearer(request)
    if credentials is None:
        raise DomainError("token.missing")
    await run_in_threadpool(get_principal, request, request.app.state.backend, credentials)


async def _refuse(send: Send, error: DomainError, status: int) -> None:
    body = json.dumps(body_of(error, status)).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
