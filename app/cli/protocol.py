"""The HTTP server's protocol, with limits that uvicorn lacks: on the head of a request, and on slow clients.

uvicorn on httptools keeps whatever comes of a head, and waits for ever: for the first byte of a connection, for the rest of a
head or a body, for a client that takes nothing of its answer. One such client costs little, all that somebody can open cost
every file descriptor. Therefore the size of a head is limited. Each connection is checked every few seconds, and is closed if it
makes no progress, or if its body arrives more slowly than a minimum rate.
"""

import asyncio
import json
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.domain.errors import DomainError
from app.http.broken_answers import ABORT
from app.http.problems import MEDIA_TYPE, OWN_STATUS, body_of

MAX_HEAD_BYTES = 64 * 2**10
MAX_HEADERS = 100
LOOKS = 4  # checks of a connection within the shortest of its time limits
# If an answer is sent before the end of the body, up to this many of the remaining bytes are discarded before the connection is
# closed, so that a client that is still sending can read the answer.
MAX_DISCARDED_BYTES = 2**20


def _too_large() -> bytes:
    error = DomainError("request.head", limit=MAX_HEAD_BYTES)
    body = json.dumps(body_of(error, OWN_STATUS[error.code])).encode()
    head = f"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
    return f"{head}x-content-type-options: nosniff\r\nconnection: close\r\n\r\n".encode() + body


TOO_LARGE = _too_large()


class HeadError(Exception):
    """The head of a request is too large; httptools passes it on as an error of its own."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        head_seconds: how long the head of a request may take, from the connection or its first byte on.
        idle_seconds: how long nothing may come of a body that began, or nothing go of an answer.
        body_rate: the minimum rate of a body in bytes per second, averaged over each period of `body_rate_seconds`; 0 for no
            minimum. Time in which the service does not read is not counted.
        body_rate_seconds: see `body_rate`.
    """

    def __init__(
        self, *args: Any, head_seconds: float, idle_seconds: float, body_rate: int, body_rate_seconds: float, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._head_limit, self._idle_limit = head_seconds, idle_seconds
        self._rate, self._rate_period = body_rate, body_rate_seconds
        self._pause = min(head_seconds, idle_seconds, body_rate_seconds) / LOOKS
        # The current rate period of a body: seconds waited, bytes received, and the time of the last check.
        self._waited, self._arrived, self._looked_at = 0.0, 0, 0.0
        self._discarded = 0
        self._look_again: asyncio.TimerHandle | None = None
        # Since when a head, a body and the client are waited for; None: they are not.
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._sent_since, self._unsent = 0.0, 0
        self._head_bytes, self._in_head = 0, False  # of the parts of a head that are whole
        self._steps, self._unread = 0, 0  # of the parser, and bytes that came since without making it take one
        self._too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._look_again = self.loop.call_later(self._pause, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look_again:
            self._look_again.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        present, steps = self.loop.time(), self._steps
        if self._body_since is not None:
            self._body_since = present
        elif self._head_since is None and (self.cycle is None or self.cycle.response_complete):
            self._head_since = present  # also for empty lines, which begin no message
        super().data_received(data)
        self._unread = self._unread + len(data) if self._steps == steps else 0
        if self._unread > MAX_HEAD_BYTES:  # one endless header, which the parser keeps to itself
            self._refuse()

    def send_400_response(self, msg: str) -> None:
        if self._too_large:
            self._refuse()
        else:
            super().send_400_response(msg)

    # -- what the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._steps += 1
        self._head_bytes, self._head_since, self._in_head = 0, self.loop.time(), True
        self._discarded = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, which come after the body, count and are dropped: uvicorn would put them among the headers, a token too."""
        if self._in_head:
            super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._steps += 1
        self._head_since, self._body_since, self._in_head = None, self.loop.time(), False
        self._waited, self._arrived, self._looked_at = 0.0, 0, self.loop.time()
        super().on_headers_complete()
        self.scope["extensions"] = {ABORT: {"abort": partial(self._abort, self.cycle)}}

    def on_body(self, body: bytes) -> None:
        self._steps += 1
        self._arrived += len(body)
        super().on_body(body)
        if self.cycle.response_complete:
            self._discarded += len(body)
            if self._discarded > MAX_DISCARDED_BYTES:
                self.transport.close()

    def on_message_complete(self) -> None:
        self._steps += 1
        self._body_since = None
        super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._too_large = True
            raise HeadError

    def _abort(self, cycle: RequestResponseCycle | None) -> None:
        """Closes the connection without sending the rest of the answer, and lets uvicorn end the request cycle."""
        if cycle:
            cycle.disconnected = True
        self.transport.abort()

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(TOO_LARGE)
        self.transport.close()

    # -- clients that stand still

    def _look(self) -> None:
        present = self.loop.time()
        if self._is_stuck(present) or self._is_too_slow(present):
            self.transport.abort()  # closing would wait for the client
            return
        self._look_again = self.loop.call_later(self._pause, self._look)

    def _is_stuck(self, present: float) -> bool:
        unsent = self.transport.get_write_buffer_size()
        if unsent != self._unsent or not unsent:
            self._unsent, self._sent_since = unsent, present
        elif present - self._sent_since >= self._idle_limit:
            return True
        if self.flow.read_paused:  # it is we who do not read
            self._head_since = present if self._head_since is not None else None
            self._body_since = present if self._body_since is not None else None
        return _is_over(self._head_since, self._head_limit, present) or _is_over(self._body_since, self._idle_limit, present)

    def _is_too_slow(self, present: float) -> bool:
        """Whether a rate period of the body has ended in which too few bytes arrived."""
        if self._body_since is None or not self._rate:
            return False
        if not self.flow.read_paused:
            self._waited += present - self._looked_at
        self._looked_at = present
        if self._waited < self._rate_period:
            return False
        is_too_slow = self._arrived < self._rate * self._waited
        self._waited, self._arrived = 0.0, 0
        return is_too_slow


def _is_over(since: float | None, limit: float, present: float) -> bool:
    return since is not None and present - since >= limit
