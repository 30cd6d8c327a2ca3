"""Admission control for reads that keep large buffers: a semaphore with a total limit and a limit per owner.

A read of a merged file holds factors and precomputed pieces, and a read of a large file in an object store holds blocks that were
read ahead: tens of MiB each. Places (the semaphore's slots) bound that memory, not the number of clients.

A read needs its place while it produces bytes. When it only waits for its client it is idle, and after `IDLE_SECONDS` its place
may be reclaimed for a waiting read. The buffers of the idle read are dropped first; when its client asks for more, the read
applies for a place again like any other and continues at the same byte. So a client that takes one byte a second blocks no other
reader, and a fast one computes ahead without interruption.

Waiting reads are served first in, first out, skipping owners that have reached their limit. A place that becomes free is granted
to the first eligible waiter at once, so no newcomer can overtake.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from app.domain.errors import DomainError

# A read whose client takes a piece of 2 MiB within this time keeps its place.
IDLE_SECONDS = 2.0

log = logging.getLogger("portllm.places")


class ReadSlot:
    """A slot of the semaphore: the right of one read to keep its buffers, until `release`."""

    def __init__(self, places: "ReadSlots", owner: str) -> None:
        self._places, self.owner = places, owner
        self.idle_since: float | None = None
        self.drop_buffers: Callable[[], None] = _nothing

    def rest(self, drop_buffers: Callable[[], None]) -> None:
        """Marks the read as idle (waiting for its client). If the place is reclaimed, any thread calls `drop_buffers`."""
        self._places.rest(self, drop_buffers)

    def resume(self) -> bool:
        """Marks the read as active again; returns whether it still has the place."""
        return self._places.resume(self)

    def release(self) -> None:
        """Releases the place; does nothing if it was already released or reclaimed."""
        self._places.release(self)


class Waiter:
    """A read in the queue; any thread calls `granted` with its place, so `granted` must not block."""

    def __init__(self, owner: str, granted: Callable[[ReadSlot], None]) -> None:
        self.owner, self.granted = owner, granted


class NoSlotError(DomainError):
    """All places are taken (server.busy).

    Attributes:
        places: the semaphore.
        owner: the owner of the read.
        data: includes `owner` if only the owner's limit is reached and other places are free.
    """

    def __init__(self, places: "ReadSlots", owner: str, limit: int, what: str, named: dict[str, str]) -> None:
        super().__init__("server.busy", limit=limit, what=what, **named)
        self.places, self.owner = places, owner


class ReadSlots:
    """The semaphore of one process; thread-safe.

    Args:
        total: the number of places.
        each: how many of them one owner may have at once.
        what: what they are used for, as shown in error messages.
    """

    def __init__(self, total: int, each: int, what: str) -> None:
        self.what = what
        self._total, self._each = total, each
        self._lock = threading.Lock()
        self._held: dict[ReadSlot, None] = {}
        self._count = Counter[str]()
        self._waiting: dict[Waiter, None] = {}

    def take(self, owner: str) -> ReadSlot:
        """Returns a place without waiting; if none is free, reclaims that of a read which has been idle for long enough.

        Raises:
            NoPlaceError: no place is available; says whether the owner's limit or the total is reached.
        """
        actions: list[Callable[[], None]] = []
        with self._lock:
            self._serve_waiting(actions)
            place = self._admit(owner, actions)
            all_taken = self._count.total() >= self._total
        _run(actions)
        if place is not None:
            return place
        if all_taken:
            raise NoSlotError(self, owner, self._total, self.what, {})
        raise NoSlotError(self, owner, self._each, f"{self.what} of {owner}", {"owner": owner})

    @contextmanager
    def hold(self, owner: str) -> Iterator[None]:
        """Holds a place while the `with` block runs; raises like `take`."""
        place = self.take(owner)
        try:
            yield
        finally:
            place.release()

    def wait(self, owner: str, granted: Callable[[ReadSlot], None]) -> Waiter:
        """Joins the queue, which `reclaim` serves. The wait ends when `granted` is called, or with `leave`."""
        waiter = Waiter(owner, granted)
        with self._lock:
            self._waiting[waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Leaves the queue; a place that was already granted is kept by its receiver."""
        with self._lock:
            self._waiting.pop(waiter, None)

    def is_first(self, waiter: Waiter) -> bool:
        """Returns whether a waiter is first in the queue. Only the first one has to call `reclaim` periodically."""
        with self._lock:
            return next(iter(self._waiting), None) is waiter

    def taken(self) -> dict[str, int]:
        """Returns how many places are taken, by owner."""
        with self._lock:
            return dict(self._count)

    def waiting(self) -> int:
        """Returns how many reads wait."""
        with self._lock:
            return len(self._waiting)

    def reclaim(self) -> None:
        """Serves the queue as far as possible; needed periodically, because idle places become reclaimable as time passes."""
        actions: list[Callable[[], None]] = []
        with self._lock:
            self._serve_waiting(actions)
        _run(actions)

    def rest(self, place: ReadSlot, drop_buffers: Callable[[], None]) -> None:
        with self._lock:
            place.idle_since, place.drop_buffers = time.monotonic(), drop_buffers

    def resume(self, place: ReadSlot) -> bool:
        with self._lock:
            place.idle_since, place.drop_buffers = None, _nothing
            return place in self._held

    def release(self, place: ReadSlot) -> None:
        actions: list[Callable[[], None]] = []
        with self._lock:
            self._remove(place)
            self._serve_waiting(actions)
        _run(actions)

    # -- called with the lock held; the `actions` run in order after it is released

    def _serve_waiting(self, actions: list[Callable[[], None]]) -> None:
        refused = set[str]()
        for waiter in list(self._waiting):
            if waiter.owner in refused:
                continue
            place = self._admit(waiter.owner, actions)
            if place is None:
                refused.add(waiter.owner)
                continue
            del self._waiting[waiter]
            actions.append(partial(waiter.granted, place))

    def _admit(self, owner: str, actions: list[Callable[[], None]]) -> ReadSlot | None:
        if self._count.total() >= self._total or self._count[owner] >= self._each:
            idle = self._idle_longest(owner if self._count[owner] >= self._each else None)
            if idle is None:
                return None
            actions.append(idle.drop_buffers)
            self._remove(idle)
        place = ReadSlot(self, owner)
        self._held[place] = None
        self._count[owner] += 1
        return place

    def _idle_longest(self, owner: str | None) -> ReadSlot | None:
        """Returns the reclaimable place that has been idle longest, of one owner or of all; None if there is none."""
        latest = time.monotonic() - IDLE_SECONDS
        idle = [
            (place.idle_since, index, place) for index, place in enumerate(self._held)
            if place.idle_since is not None and place.idle_since <= latest and owner in (None, place.owner)
        ]  # fmt: skip
        return min(idle)[2] if idle else None

    def _remove(self, place: ReadSlot) -> None:
        if place in self._held:
            del self._held[place]
            self._count[place.owner] -= 1
            if not self._count[place.owner]:
                del self._count[place.owner]


def _run(actions: list[Callable[[], None]]) -> None:
    """Runs all actions, even if one fails: an error while closing a file must not stop a place from being granted."""
    for action in actions:
        try:
            action()
        except Exception:
            log.exception("a read that lost its place could not be closed")


def _nothing() -> None:
    """Does nothing; the default for a read without buffers."""
