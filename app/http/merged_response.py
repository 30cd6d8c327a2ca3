"""Answers with one file: Range, If-Range, If-None-Match and HEAD, in bounded memory.

A file is found in a transaction, which must have ended before `respond` is called: no database connection is in use while bytes
are opened, computed or sent.
"""

import mimetypes
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import anyio
from fastapi import Depends, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from app.domain.principal import Principal
from app.http.access import registry_of
from app.http.admission import wait_for_slot
from app.http.broken_answers import BreakableResponse
from app.http.conditional import Span, is_match, span
from app.http.telemetry import Telemetry, get_telemetry
from app.services.artifacts.file_reads import Content, FileRead
from app.services.read_slots import NoSlotError, ReadSlot

# How long a read whose slot was reclaimed from a slow client waits for a new slot, before its connection is closed.
RESUME_SECONDS = 60.0
Text = Annotated[str | None, Header(max_length=1000)]
# Of the type that its name says, such as application/json; no schema, for the bytes are what somebody put there.
BINARY: dict[str, dict[str, Any]] = {"*/*": {}}
# What strangers published is never a page of ours: a browser neither guesses its type nor runs it in this origin.
FOREIGN = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}


@dataclass(frozen=True)
class Conditions:
    """The headers that say which bytes are wanted, and whether they are."""

    range: str | None
    if_range: str | None
    if_none_match: str | None

    def passed_on(self) -> dict[str, str]:
        """The range as headers of a request to a worker."""
        named = {"Range": self.range, "If-Range": self.if_range}
        return {name: value for name, value in named.items() if value is not None}


# `async`, because FastAPI runs synchronous dependencies in a thread.
async def get_conditions(range: Text = None, if_range: Text = None, if_none_match: Text = None) -> Conditions:  # noqa: A002
    return Conditions(range, if_range, if_none_match)


ConditionsDep = Annotated[Conditions, Depends(get_conditions)]


@dataclass(frozen=True)
class Target:
    """A file to answer with: its path, its size in bytes, its ETag, and headers for this file."""

    path: str
    size: int
    etag: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reader:
    """The caller that reads a file; `family_id` is the family that it must have access to, None if none is needed."""

    principal: Principal
    family_id: str | None = None


def respond(
    request: Request, conditions: Conditions, target: Target, content: Callable[[Span], Content | Response],
    reader: Reader, slot: ReadSlot | None = None,
) -> Response:  # fmt: skip
    """Answers a GET or HEAD of one file. Reads the first piece here, so that an error at the start becomes an error response.

    Args:
        request: for its method.
        conditions: its headers.
        target: the file.
        content: called if bytes are requested; returns their content, or another answer instead.
        reader: the caller and the family; if this permission is withdrawn, the response is aborted.
        slot: a slot that the request already waited for.

    Raises:
        DomainError: request.range, server.busy, and the errors of opening the file.
    """
    headers = {**target.headers, "ETag": f'"{target.etag}"'} | FOREIGN
    if is_match(conditions.if_none_match, target.etag):
        return Response(status_code=304, headers=headers)
    wanted = span(conditions.range, conditions.if_range, target.etag, target.size, target.path)
    media_type = mimetypes.guess_type(target.path)[0] or "application/octet-stream"
    status, headers = 206 if wanted.partial else 200, headers | wanted.headers()
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    found = content(wanted)
    if isinstance(found, Response):
        return found
    downloads = registry_of(request).tools.artifacts.downloads
    download = downloads.open(reader.principal, reader.family_id)
    read = FileRead(found, wanted.start, wanted.stop, download.require)

    def close() -> None:
        downloads.close(download)
        read.close()

    try:
        if slot is not None:
            read.accept(slot)
        first = read.next()
    except BaseException:
        close()
        raise
    return FileResponse(read, close, first, get_telemetry(request) if found.is_computed else None, status, headers, media_type)


class FileResponse(BreakableResponse):
    """Sends a file piece by piece. Closes it if the client disconnects, also before the first piece was sent.

    Args:
        read: the rest of the file.
        close: called at the end, in every case.
        first: the first piece of the file; None if the file is empty.
        telemetry: counts computed bytes; None if the bytes are not computed.
        status, headers, media_type: of the answer.
    """

    def __init__(
        self, read: FileRead, close: Callable[[], None], first: memoryview | None, telemetry: Telemetry | None, status: int,
        headers: dict[str, str], media_type: str,
    ) -> None:  # fmt: skip
        super().__init__(self._pieces(first), status, headers, media_type)
        self._read, self._close, self._telemetry = read, close, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._telemetry:
            self._telemetry.merged_reads.inc()
        try:
            await super().__call__(scope, receive, send)
        finally:
            if self._telemetry:
                self._telemetry.merged_reads.dec()
            if self._read.is_finished:
                self._close()
            else:  # in a thread, because closing files and stopping computations may block
                with anyio.CancelScope(shield=True):
                    await run_in_threadpool(self._close)

    async def _pieces(self, piece: memoryview | None) -> AsyncIterator[memoryview]:
        while piece is not None:
            if self._telemetry:
                self._telemetry.merged_bytes.inc(len(piece))
            yield piece
            piece = None if self._read.is_finished else await self._next()

    async def _next(self) -> memoryview | None:
        """Returns the next piece. If the slot was reclaimed while the client was slow, first waits for a new one."""
        try:
            return await run_in_threadpool(self._read.next)
        except NoSlotError as refusal:
            # The read takes the slot before the next await, where a disconnect may cancel this: closing the read releases it.
            self._read.accept(await wait_for_slot(refusal, RESUME_SECONDS))
            return await run_in_threadpool(self._read.next)
