"""One at a time, by key: what two threads must not do to the same upload at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class KeyedLocks:
    """Lets one thread at a time work on a key; keys that nobody works on cost nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def try_take(self, key: str) -> Iterator[bool]:
        """Tries to lock a key for this thread without blocking; yields whether it got the lock."""
        with self._lock:
            free = key not in self._held
            if free:
                self._held[key] = threading.Lock(), 1
        try:
            if not free:
                yield False
                return
            with self._held[key][0]:
                yield True
        finally:
            if free:
                self._leave(key)

    @contextmanager
    def take(self, key: str) -> Iterator[None]:
        with self._lock:
            turn, waiting = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = turn, waiting + 1
        try:
            with turn:
                yield
        finally:
            self._leave(key)

    def _leave(self, key: str) -> None:
        with self._lock:
            turn, waiting = self._held.pop(key)
            if waiting > 1:
                self._held[key] = turn, waiting - 1
