"""Whether what a process stands on answers: its database, its bytes, its jobs; asked with a limit, and not too often."""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from app.domain.errors import DomainError
from app.services.background import in_thread
from app.single_flight import SingleFlight

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
        self._look = SingleFlight[None, Parts](1, FRESH_SECONDS, in_thread)
        self._parts = SingleFlight[str, Component](len(checks), 0.0, in_thread)  # not cached here, because `_look` is
        self._began = dict[str, float]()
        self._failed: frozenset[str] = frozenset()

    def ask(self) -> Future[Parts]:
        """Returns the check in progress, or that of the last second, or else starts a new one; it ends within the limit."""
        return self._look.future(None, self._all)

    def _all(self) -> Parts:
        answers = {name: self._parts.future(name, partial(self._check, name)) for name in self._checks}
        wait(answers.values(), self._limit)
        parts = {name: answer.result() if answer.done() else self._overdue(name) for name, answer in answers.items()}
        self._say(parts)
        return parts

    def _check(self, name: str) -> Component:
        self._began[name] = time.monotonic()
        try:
            note = self._checks[name]()
        except BaseException as error:  # noqa: BLE001  whatever it is, the part does not work
            return Component(False, self._milliseconds(name), _reason(error), error)
        return Component(True, self._milliseconds(name), note if isinstance(note, str) else None)

    def _overdue(self, name: str) -> Component:
        milliseconds = self._milliseconds(name)
        return Component(False, milliseconds, f"no answer within {milliseconds / 1000:.0f} s")

    def _milliseconds(self, name: str) -> float:
        return round(1000 * (time.monotonic() - self._began.get(name, time.monotonic())), 1)

    def _say(self, parts: Parts) -> None:
        failed = frozenset(name for name, part in parts.items() if not part.ok)
        if failed != self._failed:  # not once a second
            self._failed = failed
            reasons = "; ".join(f"{name}: {parts[name].reason}" for name in sorted(failed))
            error = next((parts[name].error for name in sorted(failed) if parts[name].error), None)
            log.warning("not ready (%s)", reasons, exc_info=error) if failed else log.warning("ready again")


def _reason(error: BaseException) -> str:
    """What may be told to anybody: our own sentences, the system's word for an error; the rest is in the log."""
    if isinstance(error, DomainError):
        return error.detail
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "it failed; the log says why"
