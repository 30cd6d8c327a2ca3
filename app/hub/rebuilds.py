"""Places in which one process puts the files of Xet shards together: a few in all, and one for each owner."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.domain.errors import DomainError

PLACES = 2  # each takes a core
WAIT_SECONDS = 60.0


class Rebuilds:
    """The places of one application; used on its event loop only.

    Args:
        places: how many there are.
        wait_seconds: how long a request waits for one.
    """

    def __init__(self, places: int = PLACES, wait_seconds: float = WAIT_SECONDS) -> None:
        self._places, self._wait = asyncio.BoundedSemaphore(places), wait_seconds
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._asking = Counter[str]()

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Lets one request of an owner at a time go on. Taken before its shard is read: who waits holds no memory.

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
    async def place(self) -> AsyncIterator[None]:
        """A place. Taken after the shard was read, so that nobody waits for a client that sends slowly.

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
