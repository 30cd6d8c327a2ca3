"""The LRU cache: single flight, errors, and values that are forgotten while they are made."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.blobs.lru import Recent

CALLERS = 8


def test_get_by_many_threads_makes_the_value_once() -> None:
    cache: Recent[str, int] = Recent(4)
    made, entered = [], threading.Event()
    let_go, at_once = threading.Event(), threading.Barrier(CALLERS)

    def make() -> int:
        made.append(1)
        entered.set()
        assert let_go.wait(20)
        return 7

    def call() -> int:
        at_once.wait(20)
        return cache.get("plan", make)

    with ThreadPoolExecutor(CALLERS) as pool:
        calls = [pool.submit(call) for _ in range(CALLERS)]
        assert entered.wait(20)
        assert cache.get("other", lambda: 1) == 1, "another key does not wait"
        let_go.set()
        assert [call.result(20) for call in calls] == [7] * CALLERS
    assert len(made) == 1


def test_get_that_fails_raises_and_the_next_call_makes_it_again() -> None:
    cache: Recent[str, int] = Recent(4)

    def fail() -> int:
        raise OSError("away")

    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            cache.get("plan", fail)
    assert cache.get("plan", lambda: 3) == 3


def test_value_forgotten_while_it_is_made_is_not_remembered() -> None:
    """A version that is purged while its plan is made leaves no plan behind."""
    cache: Recent[str, int] = Recent(4)

    def make() -> int:
        assert cache.remembered() == ["plan"]
        cache.forget("plan")
        return 1

    assert cache.get("plan", make) == 1
    assert cache.remembered() == []
    assert cache.get("plan", lambda: 2) == 2


def test_values_used_longest_ago_are_dropped() -> None:
    cache: Recent[int, int] = Recent(2)
    for number in (1, 2, 1, 3):
        cache.get(number, lambda number=number: number)  # type: ignore[misc]
    assert cache.remembered() == [1, 3]
