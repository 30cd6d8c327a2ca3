"""One merged file as an answer: Range, If-Range, If-None-Match and HEAD as for a static file.

The service and its workers share it.
"""

import base64
import mimetypes
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

from fastapi import Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.db.ports import Port
from app.domain.errors import DomainError
from app.services import merged, ports
from app.services.backend import Backend
from app.services.merged import MergedFile
from app.services.uow import UnitOfWork
from app.wire.conditional import Span, is_match, span
from app.wire.telemetry import Telemetry, get_telemetry

AHEAD = 6
Text = Annotated[str | None, Header(max_length=1000)]
# Of the type that its name says, such as application/json; no schema, for the bytes are what somebody put there.
BINARY: dict[str, dict[str, Any]] = {"*/*": {}}
# What strangers published is never a page of ours: a browser neither guesses its type nor runs it in this origin.
FOREIGN = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}
Body = Generator[memoryview, None, None]


@dataclass(frozen=True)
class Wanted:
    """What a request asks of a file: bytes of it, of a port."""

    port: Port
    file: MergedFile
    span: Span


class Conditions:
    """The headers that say which bytes are wanted, and whether they are."""

    def __init__(
        self,
        range: Text = None,  # noqa: A002  the header's name
        if_range: Text = None,
        if_none_match: Text = None,
    ) -> None:
        self.range, self.if_range, self.if_none_match = range, if_range, if_none_match

    def passed_on(self) -> dict[str, str]:
        """The range as headers of a request to a worker."""
        named = {"Range": self.range, "If-Range": self.if_range}
        return {name: value for name, value in named.items() if value is not None}


def answer(
    backend: Backend, uow: UnitOfWork, port: Port, path: str, request: Request, conditions: Conditions,
    elsewhere: Callable[[Wanted], Response | Body | None] = lambda _: None,
) -> Response:  # fmt: skip
    """The answer to a GET or HEAD of one file.

    Args:
        backend: where it is computed.
        uow: the transaction in which `port` was read.
        port: a port that the caller may read.
        path: the file.
        request: for its method.
        conditions: its headers.
        elsewhere: asked before a byte is computed here; gives another answer, or the body from elsewhere.
    """
    file = merged.file(uow, port, path)
    headers = _headers(file)
    if is_match(conditions.if_none_match, file.etag):
        return Response(status_code=304, headers=headers)
    wanted = Wanted(port, file, span(conditions.range, conditions.if_range, file.etag, file.size, path))
    media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
    status = 206 if wanted.span.partial else 200
    headers |= wanted.span.headers()
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    found = elsewhere(wanted)
    if isinstance(found, Response):
        return found
    return MergedResponse(found or _open(backend, uow, wanted, get_telemetry(request)), status, headers, media_type)


class MergedResponse(StreamingResponse):
    """A stream that is closed when the client goes away, also before the first piece was sent."""

    def __init__(self, body: Body, status: int, headers: dict[str, str], media_type: str) -> None:
        super().__init__(body, status, headers, media_type)
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await run_in_threadpool(self._finish)

    def _finish(self) -> None:
        # A generator that never began has no `finally` to run: begin it, then close it.
        next(self._body, None)
        self._body.close()


def _headers(file: MergedFile) -> dict[str, str]:
    headers = {"ETag": f'"{file.etag}"', "Cache-Control": "private, no-transform"} | FOREIGN
    if file.sha256:
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(file.sha256)).decode()}:"
    return headers


def _open(backend: Backend, uow: UnitOfWork, wanted: Wanted, telemetry: Telemetry) -> Body:
    """Starts the read and makes its first piece, so that what goes wrong at the start is an error, not a broken download."""
    stack = ExitStack()
    try:
        _take_place(backend, stack, telemetry, wanted.port.owner)
        merger = stack.enter_context(ports.open_merged(uow, wanted.port))
        pieces = merger.stream(wanted.file.path, wanted.span.start, wanted.span.stop, pool=backend.pool, ahead=AHEAD)
        stack.callback(pieces.close)
        first = next(pieces, None)
    except BaseException:
        stack.close()
        raise
    return _body(stack, first, pieces, telemetry if wanted.file.computed else None)


def _take_place(backend: Backend, stack: ExitStack, telemetry: Telemetry, owner: str) -> None:
    try:
        stack.enter_context(backend.merged_read(owner))
    except DomainError:
        telemetry.merged_refused.inc()
        raise
    stack.enter_context(telemetry.merged_reads.track_inprogress())


def _body(stack: ExitStack, first: memoryview | None, rest: Iterator[memoryview], telemetry: Telemetry | None) -> Body:
    """Gives its place and its files back when it ends, however it ends; `telemetry` counts its bytes, where they are computed."""
    with stack:
        for piece in chain(() if first is None else (first,), rest):
            if telemetry:
                telemetry.merged_bytes.inc(len(piece))
            yield piece
