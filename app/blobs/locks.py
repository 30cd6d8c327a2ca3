"""One at a time, by key: what two threads must not do to the same upload at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets one thread at a time work on a key; keys that nobody works on cost nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def take(self, key: str) -> Iterator[None]:
        with self._lock:
            turn, waiting = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = turn, waiting + 1
        try:
            with turn:
                yield
        finally:
            with self._lock:
                turn, waiting = self._held.pop(key)
                if waiting > 1:
                    self._held[key] = turn, waiting - 1
