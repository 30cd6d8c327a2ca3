"""Semaphores with a limit per key and in total. Waiters stay on the event loop and hold no thread."""

import asyncio
from collections import Counter, deque


class Slots:
    """A keyed semaphore; used on one event loop only.

    Waiters of the same key are served first in, first out; keys with waiters are served round-robin.

    Args:
        each: how many slots one key may hold.
        total: how many slots all keys together may hold; None for no limit.
    """

    def __init__(self, each: int, total: int | None = None) -> None:
        self.each, self.total = each, total
        self._held = Counter[str]()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def take(self, key: str, seconds: float) -> None:
        """Takes a slot, waiting for at most `seconds`.

        Raises:
            TimeoutError: no slot became free in that time.
        """
        if key not in self._waiting and self._has_room(key):
            self._held[key] += 1
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(key, deque())
        queue.append(granted)
        try:
            async with asyncio.timeout(seconds):
                await granted
        except BaseException:
            if granted.done() and not granted.cancelled():  # granted at the last moment
                self.release(key)
            else:
                self._leave(key, granted)
            raise

    def release(self, key: str) -> None:
        """Releases a slot; the next waiter gets it."""
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]
        self._serve()

    def move(self, key: str, other: str) -> bool:
        """Moves a held slot to another key if that key has a free slot and no waiters; returns whether it did."""
        if other in self._waiting or self._held[other] >= self.each:
            return False
        self._held[other] += 1
        self.release(key)
        return True

    def held(self, key: str) -> int:
        """Returns how many slots a key holds now."""
        return self._held[key]

    def _has_room(self, key: str) -> bool:
        return self._held[key] < self.each and (self.total is None or self._held.total() < self.total)

    def _serve(self) -> None:
        for key in list(self._waiting):
            queue = self._waiting[key]
            while queue and self._has_room(key):
                granted = queue.popleft()
                if not granted.done():
                    self._held[key] += 1
                    granted.set_result(None)
                    if self.total is not None:  # round-robin: this key goes to the end
                        self._waiting[key] = self._waiting.pop(key)
                        break
            if not queue:
                del self._waiting[key]

    def _leave(self, key: str, granted: "asyncio.Future[None]") -> None:
        queue = self._waiting.get(key)
        if queue is not None:
            if granted in queue:
                queue.remove(granted)
            if not queue:
                del self._waiting[key]
