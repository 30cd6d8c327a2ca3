"""How long a property is tried: a fixed handful of examples beside the other tests, or until its time is up."""

import os
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from hypothesis import HealthCheck, Phase, settings

SECONDS = float(os.environ.get("PORTLLM_FUZZ_SECONDS") or 0)
# Nothing is written beside the tests: what is found is printed with the way to repeat it, and becomes a test of its own.
BASE = settings(
    database=None, deadline=None, derandomize=not SECONDS, print_blob=bool(SECONDS), suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)  # fmt: skip
# Hypothesis has no limit of time: where there is one, examples come in rounds.
ROUND = 50


class Share:
    """What each property gets of the time; how many there are is known when the tests are collected."""

    properties = 1

    @classmethod
    def end(cls) -> float:
        return time.monotonic() + SECONDS / cls.properties


def limits(examples: int, steps: int = 50) -> settings:
    """Settings of a property that is tried with so many examples, of so many steps where it has any."""
    return settings(BASE, max_examples=ROUND if SECONDS else examples, stateful_step_count=steps)


def tried(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Tries a property with so many examples, always the same, or with new ones until its share of the time has passed."""

    def wrap(test: Callable[..., None]) -> Callable[..., None]:
        limited = limits(examples)(test)
        return repeated(limited) if SECONDS else limited

    return wrap


def repeated(test: Callable[..., None]) -> Callable[..., None]:
    """The test again and again until its share of the time has passed."""

    @wraps(test)
    def until_its_end(*arguments: Any, **named: Any) -> None:
        end = Share.end()
        while time.monotonic() < end:
            test(*arguments, **named)

    return until_its_end
