"""Waiting for a place to read a merged model.

A client that is sent away comes back five times at most, and some not at all. It waits ten seconds for a first byte, so nearly as
long it waits here: in the order of coming, without a thread, and only the first in line asks again.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable

from fastapi import Response
from fastapi.concurrency import run_in_threadpool

from app.domain.errors import DomainError
from app.services.backend import Backend

PATIENCE_SECONDS = 8.0
PAUSE_SECONDS = 0.02
BUSY = "server.busy"


class Waiting:
    """The lines of one process: one for the places of each owner, and one for all places."""

    def __init__(self) -> None:
        self._lines: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, backend: Backend, read: Callable[[], Response]) -> Response:
        """Runs a read in a thread, and again when there is a place.

        Raises:
            DomainError: server.busy, when none came; whatever `read` raises.
        """
        try:
            return await run_in_threadpool(read)
        except DomainError as error:
            if error.code != BUSY:
                raise
            return await self._in_line(backend, read, error)

    async def _in_line(self, backend: Backend, read: Callable[[], Response], refusal: DomainError) -> Response:
        owner, deadline = str(refusal.data.get("owner", "")), time.monotonic() + PATIENCE_SECONDS
        line = self._lines[owner]
        try:
            await asyncio.wait_for(line.acquire(), PATIENCE_SECONDS)
        except TimeoutError:
            raise refusal from None
        try:
            while time.monotonic() < deadline:
                if backend.has_room(owner):
                    try:
                        return await run_in_threadpool(read)
                    except DomainError as error:
                        if error.code != BUSY:
                            raise
                await asyncio.sleep(PAUSE_SECONDS)
            raise refusal
        finally:
            line.release()
            if not line.locked():
                self._lines.pop(owner, None)
