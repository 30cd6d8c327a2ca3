"""Values that are computed once for all concurrent callers, and remembered."""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class OverdueError(Exception):
    """A value was not available within the caller's time limit."""


def run_here(work: Callable[[], None]) -> None:
    """Runs the computation of a value in the thread of the first caller."""
    work()


class SingleFlight(Generic[Key, Value]):
    """An LRU cache in which one caller computes a value and all concurrent callers get the result; thread-safe.

    An error goes to all callers that wait for the value, and is not remembered.

    Args:
        size: how many values are remembered; those being computed are not limited.
        seconds: how long a value is reused, counted from the start of its computation; forever by default.
        start: runs the computation: in the caller's thread, or in another one (`in_thread`) if it may hang.
        clock: returns monotonic time in seconds.
    """

    def __init__(
        self, size: int = 1, seconds: float = math.inf, start: Callable[[Callable[[], None]], object] = run_here,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._size, self._seconds, self._start, self._clock = size, seconds, start, clock
        self._lock = threading.Lock()
        self._held: OrderedDict[Key, tuple[Future[Value], float]] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value], limit: float | None = None) -> Value:
        """Returns the value of a key; computes it with `make` unless it is remembered or being computed.

        Args:
            limit: how long to wait for it, in seconds.

        Raises:
            OverdueError: it was not available in time.
            Exception: the error of `make`.
        """
        future = self.future(key, make)
        if wait((future,), limit).not_done:
            raise OverdueError
        return future.result()

    def future(self, key: Key, make: Callable[[], Value]) -> Future[Value]:
        """Returns the future of a key's value; starts the computation like `get`. Callers cannot cancel it."""
        with self._lock:
            future, began = self._held.get(key, (None, 0.0))
            if future is not None and (not future.done() or self._clock() - began < self._seconds):
                self._held.move_to_end(key)
                return future
            future = Future()
            future.set_running_or_notify_cancel()
            self._held[key] = future, self._clock()
            self._held.move_to_end(key)
            self._evict()
        try:
            self._start(partial(self._compute, key, make, future))
        except BaseException as error:  # noqa: BLE001  no thread could be started
            self._fail(key, future, error)
        return future

    def remembered(self) -> list[Key]:
        """Returns the keys whose values are remembered or being computed, the least recently used first."""
        with self._lock:
            return list(self._held)

    def forget(self, key: Key) -> None:
        """Drops a value; one that is being computed is still returned to its callers, but not remembered."""
        with self._lock:
            self._held.pop(key, None)

    def _compute(self, key: Key, make: Callable[[], Value], future: Future[Value]) -> None:
        try:
            value = make()
        except BaseException as error:  # noqa: BLE001  it is raised where the value is asked for
            self._fail(key, future, error)
        else:
            future.set_result(value)

    def _fail(self, key: Key, future: Future[Value], error: BaseException) -> None:
        with self._lock:
            if key in self._held and self._held[key][0] is future:
                del self._held[key]
        future.set_exception(error)

    def _evict(self) -> None:
        excess = len(self._held) - self._size
        if excess > 0:
            for key in [key for key, (future, _) in self._held.items() if future.done()][:excess]:
                del self._held[key]
