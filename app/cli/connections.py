"""Connections of clients: bounds on what comes before and between the bytes of a body.

httptools keeps a line until it ends, and uvicorn every line until the last: without a bound a stranger fills the memory with
one endless header, and keeps a connection for good by never ending it.
"""

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.problems import MEDIA_TYPE, OWN_STATUS, body_of
from app.domain.errors import DomainError

# Beside what comes with its first packet. Other servers allow 8 to 64 KiB; our longest header is a token.
MAX_HEAD_BYTES = 64 * 2**10
HEAD_SECONDS = 30.0


class Connection(HttpToolsProtocol):
    """One client's connection: uvicorn's, with bounds."""

    _quiet = 0  # bytes since the last that were part of a body, or ended something
    _in_head = False
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._quiet += len(data)
        super().data_received(data)
        if self._quiet > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        self._quiet, self._in_head = 0, True
        self._wait_for_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, which come after the body, are dropped: uvicorn would put them among the headers, a token too."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._quiet, self._in_head = 0, False
        self._stop_clock()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._quiet = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._quiet = 0
        super().on_message_complete()

    def _refuse(self) -> None:
        error = DomainError("request.head", limit=MAX_HEAD_BYTES)
        body = json.dumps(body_of(error, OWN_STATUS[error.code])).encode()
        head = f"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def _wait_for_head(self) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _stop_clock(self) -> None:
        if self._clock:
            self._clock.cancel()
            self._clock = None

    def _give_up(self) -> None:
        """Ends a connection whose next request did not come, unless the one before is still answered."""
        if self.cycle and not self.cycle.response_complete:
            self._wait_for_head()
        else:
            self.transport.close()
