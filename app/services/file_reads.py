"""Reading one file in order, piece by piece, for a client that may be slow."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from app.services.places import Place, Places

# Opens a file from an offset on; its pieces follow each other without gaps.
Open = Callable[[int], AbstractContextManager[Iterator[memoryview]]]


@dataclass(frozen=True)
class Content:
    """Where the bytes of a file come from.

    Attributes:
        open: opens them.
        places: a read needs one of these, for it keeps large buffers; None where it does not.
        owner: whose place it needs.
        is_computed: whether its bytes are computed, and not stored somewhere.
    """

    open: Open
    places: Places | None = None
    owner: str = ""
    is_computed: bool = False


class FileRead:
    """Bytes [start, stop) of a file, in order; opened when the first of them is asked for. Before each piece
    `require_allowed` is called, which raises where they may not be read any more.

    `next` is called by one thread at a time; `close` may be called by any thread, and its place reclaimed by any.
    """

    def __init__(self, content: Content, start: int, stop: int, require_allowed: Callable[[], None]) -> None:
        self._content, self._position, self._stop, self._require_allowed = content, start, stop, require_allowed
        self._lock = threading.Lock()  # of what is open
        self._opened = ExitStack()
        self._pieces: Iterator[memoryview] | None = None
        self._place: Place | None = None

    def accept(self, place: Place) -> None:
        """Takes over a place that was waited for; `close` gives it back."""
        self._place = place

    def next(self) -> memoryview | None:
        """The next piece, None at the end.

        Raises:
            NoPlaceError: it needs a place, and there is none.
            CoreError, DomainError: the bytes cannot be had, or are not what they were.
        """
        if self._position == self._stop:
            self.close()
            return None
        self._require_allowed()
        self._require_place()
        with self._lock:
            if self._pieces is None:
                self._pieces = self._opened.enter_context(self._content.open(self._position))
            piece = next(self._pieces, None)
        if piece is None:
            raise ConnectionError("the file ended before its last byte")
        self._position += len(piece)
        if self._position == self._stop:
            self.close()
        elif self._place is not None:
            self._place.rest(self._drop)
        return piece

    def close(self) -> None:
        """Closes what is open and gives the place back; may be called again."""
        self._drop()
        if self._place is not None:
            self._place.release()

    def _require_place(self) -> None:
        if self._content.places is not None and (self._place is None or not self._place.resume()):
            self._place = self._content.places.take(self._content.owner)

    def _drop(self) -> None:
        with self._lock:
            self._pieces = None
            self._opened.close()
