"""Whether bytes can be read just now: asked by one thread for each thing, not too often, and never waited for long."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass

from app.domain.errors import DomainError
from app.services.background import in_thread

FRESH_SECONDS = 2.0
# Clients of the Hub protocol wait ten seconds for the head of an answer, and try again where it says 503.
LIMIT_SECONDS = 4.0
REMEMBERED = 256


@dataclass(frozen=True)
class _Look:
    answer: Future[None]
    began: float

    @property
    def is_stale(self) -> bool:
        """Whether somebody has to look again; while one look hangs nobody begins another."""
        if not self.answer.done():
            return False
        return self.answer.exception() is not None or time.monotonic() - self.began > FRESH_SECONDS


class Probes:
    """The last look at each of many things."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looks: OrderedDict[str, _Look] = OrderedDict()

    def require(self, key: str, look: Callable[[], None]) -> None:
        """Returns when a look at a thing succeeded, now or in the last seconds.

        Raises:
            DomainError: storage.unavailable, when it takes too long. Whatever the look raised, when it failed.
        """
        with self._lock:
            last = self._looks.get(key)
            if last is None or last.is_stale:
                last = self._looks[key] = _Look(in_thread(look), time.monotonic())
            self._looks.move_to_end(key)
            while len(self._looks) > REMEMBERED:
                self._looks.popitem(last=False)
        wait([last.answer], LIMIT_SECONDS)
        if not last.answer.done():
            raise DomainError("storage.unavailable", reason=f"it gave no byte within {LIMIT_SECONDS:.0f} s")
        last.answer.result()
