"""Admission control for reads that keep large buffers: a semaphore with a total limit and a limit per owner.

A read of a merged file holds factors and precomputed pieces, and a read of a large file in an object store holds blocks that were
read ahead: tens of MiB each. The slots bound that memory, not the number of clients.

A read needs its slot while it produces bytes. When it only waits for its client it is idle, and after `IDLE_SECONDS` its slot
may be reclaimed for a waiting read. The buffers of the idle read are dropped first; when its client asks for more, the read
applies for a slot again like any other and continues at the same byte. So a client that takes one byte a second blocks no other
reader, and a fast one computes ahead without interruption.

Waiting reads are served first in, first out, skipping owners that have reached their limit. A slot that becomes free is granted
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

# A read whose client takes a piece of 2 MiB within this time keeps its slot.
IDLE_SECONDS = 2.0

log = logging.getLogger("portllm.read_slots")


class ReadSlot:
    """A slot of the semaphore: the right of one read to keep its buffers, until `release`."""

    def __init__(self, slots: "ReadSlots", owner: str) -> None:
        self._places, self.owner = slots, owner
        self.idle_since: float | None = None
        self.drop_buffers: Callable[[], None] = _nothing

    def rest(self, drop_buffers: Callable[[], None]) -> None:
        """Marks the read as idle (waiting for its client). If the slot is reclaimed, any thread calls `drop_buffers`."""
        self._places.rest(self, drop_buffers)

    def resume(self) -> bool:
        """Marks the read as active again; returns whether it still has the slot."""
        return self._places.resume(self)

    def release(self) -> None:
        """Releases the slot; does nothing if it was already released or reclaimed."""
        self._places.release(self)


class Waiter:
    """A read in the queue; any thread calls `granted` with its slot, so `granted` must not block."""

    def __init__(self, owner: str, granted: Callable[[ReadSlot], None]) -> None:
        self.owner, self.granted = owner, granted


class NoSlotError(DomainError):
    """All slots are taken (server.busy).

    Attributes:
        slots: the semaphore.
        owner: the owner of the read.
        data: includes `owner` if only the owner's limit is reached and other slots are free.
    """

    def __init__(self, slots: "ReadSlots", owner: str, limit: int, what: str, named: dict[str, str]) -> None:
        super().__init__("server.busy", limit=limit, what=what, **named)
        self.slots, self.owner = slots, owner


class ReadSlots:
    """The semaphore of one process; thread-safe.

    Args:
        total: the number of slots.
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
        """Returns a slot without waiting; if none is free, reclaims that of a read which has been idle for long enough.

        Raises:
            NoSlotError: no slot is available; says whether the owner's limit or the total is reached.
        """
        actions: list[Callable[[], None]] = []
        with self._lock:
            self._serve_waiting(actions)
            slot = self._admit(owner, actions)
            all_taken = self._count.total() >= self._total
        _run(actions)
        if slot is not None:
            return slot
        if all_taken:
            raise NoSlotError(self, owner, self._total, self.what, {})
        raise NoSlotError(self, owner, self._each, f"{self.what} of {owner}", {"owner": owner})

    @contextmanager
    def hold(self, owner: str) -> Iterator[None]:
        """Holds a slot while the `with` block runs; raises like `take`."""
        slot = self.take(owner)
        try:
            yield
        finally:
            slot.release()

    def wait(self, owner: str, granted: Callable[[ReadSlot], None]) -> Waiter:
        """Joins the queue, which `reclaim` serves. The wait ends when `granted` is called, or with `leave`."""
        waiter = Waiter(owner, granted)
        with self._lock:
            self._waiting[waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Leaves the queue; a slot that was already granted is kept by its receiver."""
        with self._lock:
            self._waiting.pop(waiter, None)

    def is_first(self, waiter: Waiter) -> bool:
        """Returns whether a waiter is first in the queue. Only the first one has to call `reclaim` periodically."""
        with self._lock:
            return next(iter(self._waiting), None) is waiter

    def taken(self) -> dict[str, int]:
        """Returns how many slots are taken, by owner."""
        with self._lock:
            return dict(self._count)

    def waiting(self) -> int:
        """Returns how many reads wait."""
        with self._lock:
            return len(self._waiting)

    def reclaim(self) -> None:
        """Serves the queue as far as possible; needed periodically, because idle slots become reclaimable as time passes."""
        actions: list[Callable[[], None]] = []
        with self._lock:
            self._serve_waiting(actions)
        _run(actions)

    def rest(self, slot: ReadSlot, drop_buffers: Callable[[], None]) -> None:
        with self._lock:
            slot.idle_since, slot.drop_buffers = time.monotonic(), drop_buffers

    def resume(self, slot: ReadSlot) -> bool:
        with self._lock:
            slot.idle_since, slot.drop_buffers = None, _nothing
            return slot in self._held

    def release(self, slot: ReadSlot) -> None:
        actions: list[Callable[[], None]] = []
        with self._lock:
            self._remove(slot)
            self._serve_waiting(actions)
        _run(actions)

    # -- called with the lock held; the `actions` run in order after it is released

    def _serve_waiting(self, actions: list[Callable[[], None]]) -> None:
        refused = set[str]()
        for waiter in list(self._waiting):
            if waiter.owner in refused:
                continue
            slot = self._admit(waiter.owner, actions)
            if slot is None:
                refused.add(waiter.owner)
                continue
            del self._waiting[waiter]
            actions.append(partial(waiter.granted, slot))

    def _admit(self, owner: str, actions: list[Callable[[], None]]) -> ReadSlot | None:
        if self._count.total() >= self._total or self._count[owner] >= self._each:
            idle = self._idle_longest(owner if self._count[owner] >= self._each else None)
            if idle is None:
                return None
            actions.append(idle.drop_buffers)
            self._remove(idle)
        slot = ReadSlot(self, owner)
        self._held[slot] = None
        self._count[owner] += 1
        return slot

    def _idle_longest(self, owner: str | None) -> ReadSlot | None:
        """Returns the reclaimable slot that has been idle longest, of one owner or of all; None if there is none."""
        latest = time.monotonic() - IDLE_SECONDS
        idle = [
            (slot.idle_since, index, slot) for index, slot in enumerate(self._held)
            if slot.idle_since is not None and slot.idle_since <= latest and owner in (None, slot.owner)
        ]  # fmt: skip
        return min(idle)[2] if idle else None

    def _remove(self, slot: ReadSlot) -> None:
        if slot in self._held:
            del self._held[slot]
            self._count[slot.owner] -= 1
            if not self._count[slot.owner]:
                del self._count[slot.owner]


def _run(actions: list[Callable[[], None]]) -> None:
    """Runs all actions, even if one fails: an error while closing a file must not stop a slot from being granted."""
    for action in actions:
        try:
            action()
        except Exception:
            log.exception("a read that lost its slot could not be closed")


def _nothing() -> None:
    """Does nothing; the default for a read without buffers."""
