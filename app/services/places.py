"""Admission control for reads that keep large buffers: a bounded number at once, and a bounded share for each owner.

A read of a merged file holds factors and pieces that are computed in advance, and one of a large file in an object store holds
blocks that are read in advance: tens of MiB each. Places bound that memory, not the number of clients.

A read needs its place while it produces bytes. Once it has nothing to do but wait for its client, it is idle, and after
`IDLE_SECONDS` its place may be reclaimed for a read that waits. The buffers of the idle read are dropped first; when its client
asks for more, it asks for a place like everybody else and goes on at the byte where it was. So a client that takes one byte a
second keeps nobody out, and a fast one computes ahead without interruption.

Reads that wait are served first in, first out, passing over owners that have all of their places: whatever becomes free is handed
to the first of them at once, so no newcomer can overtake.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from app.domain.errors import DomainError

# A client that takes a piece of 2 MiB in this time or less keeps its place.
IDLE_SECONDS = 2.0

log = logging.getLogger("portllm.places")


class Place:
    """The right of one read to keep its buffers; given back with `release`."""

    def __init__(self, places: "Places", owner: str) -> None:
        self._places, self.owner = places, owner
        self.idle_since: float | None = None
        self.drop_buffers: Callable[[], None] = _nothing

    def rest(self, drop_buffers: Callable[[], None]) -> None:
        """Says that the read waits for its client; `drop_buffers` is called, by any thread, where the place is reclaimed."""
        self._places.rest(self, drop_buffers)

    def resume(self) -> bool:
        """Says that the read goes on; whether it still has the place."""
        return self._places.resume(self)

    def release(self) -> None:
        """Gives the place back; does nothing where that was done, or where it was reclaimed."""
        self._places.release(self)


class Waiter:
    """A read in the queue; `granted` is called with its place, by any thread, and must not block."""

    def __init__(self, owner: str, granted: Callable[[Place], None]) -> None:
        self.owner, self.granted = owner, granted


class NoPlaceError(DomainError):
    """All places are taken (server.busy).

    Attributes:
        places: which ones.
        owner: whose read it was.
        data: `owner` is among it where the owner's places are taken, and others are free.
    """

    def __init__(self, places: "Places", owner: str, limit: int, what: str, named: dict[str, str]) -> None:
        super().__init__("server.busy", limit=limit, what=what, **named)
        self.places, self.owner = places, owner


class Places:
    """Places of one process; safe to use from several threads.

    Args:
        total: how many there are.
        each: how many of them one owner may have at once.
        what: what they are for, as errors say it.
    """

    def __init__(self, total: int, each: int, what: str) -> None:
        self.what = what
        self._total, self._each = total, each
        self._lock = threading.Lock()
        self._held: dict[Place, None] = {}
        self._count = Counter[str]()
        self._waiting: dict[Waiter, None] = {}

    def take(self, owner: str) -> Place:
        """A place at once; where none is free, that of a read which has been idle for long enough is reclaimed.

        Raises:
            NoPlaceError: says whether the owner's places are taken or all.
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
            raise NoPlaceError(self, owner, self._total, self.what, {})
        raise NoPlaceError(self, owner, self._each, f"{self.what} of {owner}", {"owner": owner})

    @contextmanager
    def hold(self, owner: str) -> Iterator[None]:
        """A place for as long as the block runs; raises as `take`."""
        place = self.take(owner)
        try:
            yield
        finally:
            place.release()

    def wait(self, owner: str, granted: Callable[[Place], None]) -> Waiter:
        """Joins the queue, which `reclaim` serves; ends with a call of `granted`, or with `leave`."""
        waiter = Waiter(owner, granted)
        with self._lock:
            self._waiting[waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Leaves the queue; a place that was granted already stays with whoever got it."""
        with self._lock:
            self._waiting.pop(waiter, None)

    def is_first(self, waiter: Waiter) -> bool:
        """Whether a waiter has waited longest of all: that one calls `reclaim` now and then, the others need not."""
        with self._lock:
            return next(iter(self._waiting), None) is waiter

    def taken(self) -> dict[str, int]:
        """How many places are taken, by owner."""
        with self._lock:
            return dict(self._count)

    def waiting(self) -> int:
        """How many reads wait."""
        with self._lock:
            return len(self._waiting)

    def reclaim(self) -> None:
        """Grants what can be granted by now: reads become reclaimable as time passes."""
        actions: list[Callable[[], None]] = []
        with self._lock:
            self._serve_waiting(actions)
        _run(actions)

    def rest(self, place: Place, drop_buffers: Callable[[], None]) -> None:
        with self._lock:
            place.idle_since, place.drop_buffers = time.monotonic(), drop_buffers

    def resume(self, place: Place) -> bool:
        with self._lock:
            place.idle_since, place.drop_buffers = None, _nothing
            return place in self._held

    def release(self, place: Place) -> None:
        actions: list[Callable[[], None]] = []
        with self._lock:
            self._remove(place)
            self._serve_waiting(actions)
        _run(actions)

    # -- under the lock; `actions` are run after it, in their order

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

    def _admit(self, owner: str, actions: list[Callable[[], None]]) -> Place | None:
        if self._count.total() >= self._total or self._count[owner] >= self._each:
            idle = self._idle_longest(owner if self._count[owner] >= self._each else None)
            if idle is None:
                return None
            actions.append(idle.drop_buffers)
            self._remove(idle)
        place = Place(self, owner)
        self._held[place] = None
        self._count[owner] += 1
        return place

    def _idle_longest(self, owner: str | None) -> Place | None:
        """The reclaimable place that has been idle longest, of an owner or of all."""
        latest = time.monotonic() - IDLE_SECONDS
        idle = [
            (place.idle_since, index, place) for index, place in enumerate(self._held)
            if place.idle_since is not None and place.idle_since <= latest and owner in (None, place.owner)
        ]  # fmt: skip
        return min(idle)[2] if idle else None

    def _remove(self, place: Place) -> None:
        if place in self._held:
            del self._held[place]
            self._count[place.owner] -= 1
            if not self._count[place.owner]:
                del self._count[place.owner]


def _run(actions: list[Callable[[], None]]) -> None:
    """Runs all of them: a file that cannot be closed must not keep a place from whoever it was granted to."""
    for action in actions:
        try:
            action()
        except Exception:
            log.exception("a read that lost its place could not be closed")


def _nothing() -> None:
    """There is nothing to drop."""
