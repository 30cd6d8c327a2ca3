"""A small LRU cache of immutable values, with single flight: one caller computes a value, and the others wait for it."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Caches the `size` most recently used values; thread-safe."""

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.Lock()
        self._held: OrderedDict[Key, Value] = OrderedDict()
        self._flights: dict[Key, Future[Value]] = {}

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Returns the value of a key. If it is not cached, the first caller makes it, and concurrent callers wait for the result.

        Raises:
            Exception: the error of `make`, in every caller that waited for it; nothing is cached then.
        """
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            flight = self._flights.get(key)
            is_first = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        return self._make(key, make, flight) if is_first else flight.result()

    def _make(self, key: Key, make: Callable[[], Value], flight: Future[Value]) -> Value:
        try:
            value = make()
        except BaseException as error:
            self._land(key, flight)
            flight.set_exception(error)
            raise
        with self._lock:
            if self._flights.get(key) is flight:  # not evicted by `forget` in the meantime
                self._held[key] = value
                while len(self._held) > self._size:
                    self._held.popitem(last=False)
        self._land(key, flight)
        flight.set_result(value)
        return value

    def _land(self, key: Key, flight: Future[Value]) -> None:
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]

    def remembered(self) -> list[Key]:
        """Returns the keys whose values are cached or being made."""
        with self._lock:
            return [*self._held, *self._flights]

    def forget(self, key: Key) -> None:
        """Evicts a value; a value that is being made is still returned to its callers, but not cached."""
        with self._lock:
            self._held.pop(key, None)
            self._flights.pop(key, None)
