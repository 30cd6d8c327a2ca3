"""Reading one file in order, piece by piece, for a client that may be slow."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from app.services.read_slots import ReadSlot, ReadSlots

# Opens a file from an offset on; its pieces follow each other without gaps.
Open = Callable[[int], AbstractContextManager[Iterator[memoryview]]]


@dataclass(frozen=True)
class Content:
    """Where the bytes of a file come from.

    Attributes:
        open: opens the bytes for reading.
        slots: the semaphore that admits reads with large buffers; None if this read keeps none.
        owner: the owner that the slot counts for.
        is_computed: whether the bytes are computed while they are read, rather than stored.
    """

    open: Open
    slots: ReadSlots | None = None
    owner: str = ""
    is_computed: bool = False


class FileRead:
    """Bytes [start, stop) of a file, in order. The file is opened when the first byte is requested.

    `require_allowed` is called before each piece, and raises if access was withdrawn.

    Only one thread at a time calls `next`; any thread may call `close` or reclaim the slot.
    """

    def __init__(self, content: Content, start: int, stop: int, require_allowed: Callable[[], None]) -> None:
        self._content, self._position, self._stop, self._require_allowed = content, start, stop, require_allowed
        self._lock = threading.Lock()  # guards the open resources
        self._opened = ExitStack()
        self._pieces: Iterator[memoryview] | None = None
        self._slot: ReadSlot | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the last piece was returned; nothing is open then."""
        return self._position == self._stop

    def accept(self, slot: ReadSlot) -> None:
        """Takes over a slot that the queue granted; `close` releases it."""
        self._slot = slot

    def next(self) -> memoryview | None:
        """Returns the next piece; None at the end.

        Raises:
            NoSlotError: the read needs a slot, and none is free.
            CoreError, DomainError: the bytes cannot be read, or have changed.
        """
        if self.is_finished:
            self.close()
            return None
        self._require_allowed()
        self._require_slot()
        with self._lock:
            if self._pieces is None:
                self._pieces = self._opened.enter_context(self._content.open(self._position))
            piece = next(self._pieces, None)
        if piece is None:
            raise ConnectionError("the file ended before its last byte")
        self._position += len(piece)
        if self.is_finished:
            self.close()
        elif self._slot is not None:
            self._slot.rest(self._drop)
        return piece

    def close(self) -> None:
        """Closes open resources and releases the slot; idempotent."""
        self._drop()
        if self._slot is not None:
            self._slot.release()

    def _require_slot(self) -> None:
        if self._content.slots is not None and (self._slot is None or not self._slot.resume()):
            self._slot = self._content.slots.take(self._content.owner)

    def _drop(self) -> None:
        with self._lock:
            self._pieces = None
            self._opened.close()
