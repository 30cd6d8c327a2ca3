"""The announcement that a process is about to stop."""

import asyncio
import threading


class Draining:
    """An event that is set once, when the process begins to drain. Any thread may set it, any event loop may wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = threading.Event()
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def is_set(self) -> bool:
        """Whether the process drains."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Announces the stop and wakes everybody who waits for it. Calling it again has no effect."""
        with self._lock:
            self._begun.set()
            waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    def wait_in_thread(self, seconds: float) -> bool:
        """Waits until the process begins to drain, for some seconds at most; returns whether it does."""
        return self._begun.wait(seconds)

    async def wait(self) -> None:
        """Returns when the process begins to drain; at once if it already does."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._begun.is_set():
                return
            self._waiters.add(waiter)
        try:
            await waiter
        finally:
            with self._lock:
                self._waiters.discard(waiter)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():  # cancelled meanwhile
        waiter.set_result(None)
