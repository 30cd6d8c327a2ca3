"""Limits the bytes of request bodies that one process holds in memory, in total and per owner."""

import threading
from collections import Counter
from typing import Self

from app.domain.errors import DomainError


class BodyBudget:
    """Counts the bytes of request bodies in memory.

    Args:
        total: how many bytes all owners together may hold.
        each: how many bytes one owner may hold.
    """

    def __init__(self, total: int, each: int) -> None:
        self._total, self._each = total, each
        self._lock, self._held = threading.Lock(), Counter[str]()

    def open(self, owner: str) -> "Reservation":
        """Returns an empty reservation, a context manager that releases its bytes on exit.

        Args:
            owner: the owner that sends the body.
        """
        return Reservation(self, owner)

    def held(self) -> int:
        """Returns how many bytes are reserved now."""
        with self._lock:
            return self._held.total()

    def take(self, owner: str, size: int) -> None:
        """Reserves bytes for an owner.

        Raises:
            DomainError: request.bodies_busy.
        """
        with self._lock:
            if self._held[owner] + size > self._each:
                raise DomainError("request.bodies_busy", whose="of one owner", limit=self._each)
            if self._held.total() + size > self._total:
                raise DomainError("request.bodies_busy", whose="of all owners", limit=self._total)
            self._held[owner] += size

    def give_back(self, owner: str, size: int) -> None:
        """Releases bytes that `take` reserved."""
        with self._lock:
            self._held[owner] -= size
            self._held += Counter()  # removes owners that hold nothing


class Reservation:
    """The bytes that one request has reserved from a `BodyBudget`."""

    def __init__(self, budget: BodyBudget, owner: str) -> None:
        self._budget, self._owner, self._size = budget, owner, 0

    def grow(self, size: int) -> None:
        """Increases the reservation to `size` bytes in total; does nothing if it already holds that many.

        Raises:
            DomainError: request.bodies_busy.
        """
        if size > self._size:
            self._budget.take(self._owner, size - self._size)
            self._size = size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._size:
            self._budget.give_back(self._owner, self._size)
            self._size = 0
