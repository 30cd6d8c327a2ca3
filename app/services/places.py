"""Places for streams of merged bytes: so many at once, and not all of them for the models of one owner."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from app.domain.errors import DomainError


class Places:
    """Places that are taken and given back.

    Args:
        total: how many there are.
        each: how many of them one owner may have at once.
    """

    def __init__(self, total: int, each: int) -> None:
        self._total, self._each = total, each
        self._lock, self._taken = threading.Lock(), Counter[str]()

    @contextmanager
    def take(self, owner: str) -> Iterator[None]:
        """A place for a stream of an owner's model.

        Raises:
            DomainError: server.busy, which says whether the owner's places are taken or all.
        """
        with self._lock:
            if self._taken.total() >= self._total:
                raise DomainError("server.busy", limit=self._total, what="reads of merged models")
            if self._taken[owner] >= self._each:
                raise DomainError("server.busy", limit=self._each, what=f"reads of merged models of {owner}", owner=owner)
            self._taken[owner] += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken[owner] -= 1
                self._taken += Counter()  # leaves out whoever has none

    def has_room(self, owner: str) -> bool:
        """Whether there was a place for an owner's stream just now; somebody else may take it before this one does."""
        with self._lock:
            return self._taken.total() < self._total and self._taken[owner] < self._each
