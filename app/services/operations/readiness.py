"""Whether what a process stands on answers: its database, its bytes, its jobs; asked with a limit, and not too often."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from app.domain.errors import DomainError
from app.services.background import in_thread

LIMIT_SECONDS = 2.0
FRESH_SECONDS = 1.0

log = logging.getLogger("portllm.ready")


@dataclass(frozen=True)
class Component:
    """How one part answered.

    Attributes:
        reason: why the part does not work, or a note on one that works; contains no addresses or secrets of this installation.
    """

    ok: bool
    milliseconds: float
    reason: str | None
    error: BaseException | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "milliseconds": self.milliseconds, "reason": self.reason}


Parts = Mapping[str, Component]


class Readiness:
    """Asks every part at the same time, each in a thread of its own, and waits at most a limit for all of them.

    However many callers there are, only one check runs at a time, at most one a second, and a part that hangs never gets a second
    thread.

    Args:
        checks: a function for each part, which raises if the part does not work; a text that it returns becomes the reason.
        limit: how long a part may take, in seconds.
    """

    def __init__(self, checks: Mapping[str, Callable[[], object]], limit: float = LIMIT_SECONDS) -> None:
        self._checks, self._limit = checks, limit
        self._lock = threading.Lock()
        self._look: Future[Parts] | None = None
        self._looked = 0.0
        self._asked: dict[str, _Question] = {}
        self._failed: frozenset[str] = frozenset()

    def ask(self) -> Future[Parts]:
        """Returns the check in progress, or that of the last second, or else starts a new one; it ends within the limit."""
        with self._lock:
            under_way = self._look is not None and not self._look.done()
            if self._look is None or not (under_way or time.monotonic() - self._looked < FRESH_SECONDS):
                self._look = in_thread(self._all)
            return self._look

    def _all(self) -> Parts:
        for name, check in self._checks.items():
            if name not in self._asked or self._asked[name].answer.done():
                self._asked[name] = _Question(check)
        deadline = time.monotonic() + self._limit
        parts = {name: self._asked[name].part(deadline) for name in self._checks}
        self._say(parts)
        self._looked = time.monotonic()
        return parts

    def _say(self, parts: Parts) -> None:
        failed = frozenset(name for name, part in parts.items() if not part.ok)
        if failed != self._failed:  # not once a second
            self._failed = failed
            reasons = "; ".join(f"{name}: {parts[name].reason}" for name in sorted(failed))
            error = next((parts[name].error for name in sorted(failed) if parts[name].error), None)
            log.warning("not ready (%s)", reasons, exc_info=error) if failed else log.warning("ready again")


class _Question:
    """One run of a check, and when it began."""

    def __init__(self, check: Callable[[], object]) -> None:
        self._check, self._began, self._ended = check, time.monotonic(), 0.0
        self.answer = in_thread(self._run)

    def _run(self) -> object:
        try:
            return self._check()
        finally:
            self._ended = time.monotonic()

    def part(self, deadline: float) -> Component:
        wait([self.answer], max(0.0, deadline - time.monotonic()))
        if not self.answer.done():
            passed = time.monotonic() - self._began
            return Component(False, round(1000 * passed, 1), f"no answer within {passed:.0f} s")
        error = self.answer.exception()
        milliseconds = round(1000 * (self._ended - self._began), 1)
        if error is not None:
            return Component(False, milliseconds, _reason(error), error)
        note = self.answer.result()
        return Component(True, milliseconds, note if isinstance(note, str) else None)


def _reason(error: BaseException) -> str:
    """What may be told to anybody: our own sentences, the system's word for an error; the rest is in the log."""
    if isinstance(error, DomainError):
        return error.detail
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it failed; the log says why"
