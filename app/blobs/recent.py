"""The last few values that were asked for."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Remembers up to `size` values that never change; safe to use from several threads."""

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.Lock()
        self._held: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key; made where it is not remembered, by whoever asks first or at the same time."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        value = make()
        with self._lock:
            self._held[key] = value
            while len(self._held) > self._size:
                self._held.popitem(last=False)
        return value

    def remembered(self) -> list[Key]:
        """What is remembered now."""
        with self._lock:
            return list(self._held)

    def forget(self, key: Key) -> None:
        """What was remembered of a key does not hold any more."""
        with self._lock:
            self._held.pop(key, None)
