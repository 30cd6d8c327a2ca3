"""Admission control for the reconstruction of files from Xet shards: a limit for the process, and one at a time per owner."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.domain.errors import DomainError

PLACES = 2  # each reconstruction takes a core
WAIT_SECONDS = 60.0


class Rebuilds:
    """The semaphores of one application; used on its event loop only.

    Args:
        places: how many reconstructions may run at once.
        wait_seconds: how long a request waits for its turn, and for a place.
    """

    def __init__(self, places: int = PLACES, wait_seconds: float = WAIT_SECONDS) -> None:
        self._places, self._wait = asyncio.BoundedSemaphore(places), wait_seconds
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asking = Counter[str]()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Admits one request of an owner at a time. Entered before the shard is read, so that waiting requests hold no memory.

        Raises:
            DomainError: push.busy.
        """
        turn = self._turns[owner]
        self._asking[owner] += 1
        try:
            async with _taken(turn, self._wait):
                yield
        finally:
            self._asking[owner] -= 1
            if not self._asking[owner]:
                del self._asking[owner], self._turns[owner]

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Holds a place. Entered after the shard was read, so that a client that sends slowly does not occupy a place.

        Raises:
            DomainError: push.busy.
        """
        async with _taken(self._places, self._wait):
            yield


@asynccontextmanager
async def _taken(lock: asyncio.Lock | asyncio.Semaphore, seconds: float) -> AsyncIterator[None]:
    try:
        await asyncio.wait_for(lock.acquire(), seconds)
    except TimeoutError:
        raise DomainError("push.busy") from None
    try:
        yield
    finally:
        lock.release()
