"""Events as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.schemas.system import EventOut
from app.db.events import Event
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.services.events.feed import LONGEST_PAUSE_SECONDS, EventFeed

KEEP_ALIVE_SECONDS = 15.0
# Threads that read pages for streams that start from old cursors, regardless of the number of such streams.
CATCHING_UP = 2


def message(event: Event, for_admin: bool) -> str:
    """Returns an event in the text format of server-sent events."""
    shown = EventOut.of(event, for_admin)
    return f"id: {shown.id}\nevent: {shown.kind}\ndata: {json.dumps(shown.model_dump(mode='json'))}\n\n"


class EventStreams:
    """The event feed and the thread limiter that all streams of an application share."""

    def __init__(self, feed: EventFeed) -> None:
        self.feed, self.limiter = feed, CapacityLimiter(CATCHING_UP)


async def get_event_streams(request: Request) -> EventStreams:
    streams: EventStreams = request.app.state.event_streams
    return streams


class EventStream(StreamingResponse):
    """The stream of one client. Its place is released at the end, also after an error.

    Raises:
        DomainError: server.busy or server.unready, raised by the constructor.
    """

    def __init__(self, streams: EventStreams, principal: Principal, cursor: int) -> None:
        loop, self._woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._woken.set)

        self._feed, self._limiter, self._pause = streams.feed, streams.limiter, 1.0
        self._subscription = streams.feed.subscribe(principal, cursor, wake)
        super().__init__(self._messages(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feed.close(self._subscription)

    async def _messages(self) -> AsyncIterator[str]:
        held = self._subscription
        while not held.has_ended:
            self._woken.clear()
            found = self._feed.take(held)
            if not found and not held.is_live:
                found = await self._catch_up()
            elif not found and not await self._is_woken(KEEP_ALIVE_SECONDS):
                found = [": still here\n\n"]
            if found and not held.has_ended:
                yield "".join(found)

    async def _catch_up(self) -> list[str]:
        """Returns the next page. If the database does not answer, waits for a while and returns an empty list."""
        try:
            found = await to_thread.run_sync(self._feed.catch_up, self._subscription, limiter=self._limiter)
        except DomainError:  # already logged by `app.db.errors`
            await self._is_woken(self._pause)
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            return []
        self._pause = 1.0
        return found

    async def _is_woken(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._woken.wait(), seconds)
        except TimeoutError:
            return False
        return True
