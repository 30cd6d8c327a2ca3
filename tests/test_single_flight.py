"""Single flight: one computation for all callers, errors, ages, and values that are forgotten while they are computed."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from app.services.background import in_thread
from app.single_flight import OverdueError, SingleFlight

CALLERS = 8


def test_get_by_many_threads_makes_the_value_once() -> None:
    cache: SingleFlight[str, int] = SingleFlight(4)
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
    cache: SingleFlight[str, int] = SingleFlight(4)

    def fail() -> int:
        raise OSError("away")

    for _ in range(2):
        with pytest.raises(OSError, match="away"):
            cache.get("plan", fail)
    assert cache.get("plan", lambda: 3) == 3


def test_value_forgotten_while_it_is_made_is_not_remembered() -> None:
    """A version that is purged while its plan is made leaves no plan behind."""
    cache: SingleFlight[str, int] = SingleFlight(4)

    def make() -> int:
        assert cache.remembered() == ["plan"]
        cache.forget("plan")
        return 1

    assert cache.get("plan", make) == 1
    assert cache.remembered() == []
    assert cache.get("plan", lambda: 2) == 2


def test_values_used_longest_ago_are_dropped() -> None:
    cache: SingleFlight[int, int] = SingleFlight(2)
    for number in (1, 2, 1, 3):
        cache.get(number, lambda number=number: number)  # type: ignore[misc]
    assert cache.remembered() == [1, 3]


def test_value_being_computed_is_not_dropped_for_others() -> None:
    cache: SingleFlight[str, int] = SingleFlight(1)
    let_go = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        entered = threading.Event()

        def make() -> int:
            entered.set()
            assert let_go.wait(20)
            return 1

        first = pool.submit(cache.get, "plan", make)
        assert entered.wait(20)
        assert cache.get("other", lambda: 2) == 2
        second = cache.future("plan", lambda: 3)
        let_go.set()
        assert first.result(20) == second.result(20) == 1


def test_error_goes_to_all_who_wait_and_is_not_remembered() -> None:
    """No caller hangs, and none computes it again meanwhile."""
    cache: SingleFlight[str, int] = SingleFlight(4)
    let_go, entered, made = threading.Event(), threading.Event(), list[int]()

    def fail() -> int:
        made.append(1)
        entered.set()
        assert let_go.wait(20)
        raise OSError("away")

    with ThreadPoolExecutor(CALLERS) as pool:
        first = pool.submit(cache.get, "plan", fail)
        assert entered.wait(20)
        others: list[Future[int]] = [cache.future("plan", fail) for _ in range(CALLERS)]
        let_go.set()
        for answer in (first, *others):
            with pytest.raises(OSError, match="away"):
                answer.result(20)
    assert len(made) == 1
    assert cache.remembered() == []
    assert cache.get("plan", lambda: 3) == 3


def test_value_is_computed_again_when_it_is_too_old() -> None:
    now, made = [0.0], list[float]()

    def make() -> int:
        made.append(now[0])
        return len(made)

    cache: SingleFlight[None, int] = SingleFlight(seconds=2.0, clock=lambda: now[0])
    answers = []
    for moment in (0.0, 1.9, 2.0, 3.9, 4.0):
        now[0] = moment
        answers.append(cache.get(None, make))
    assert answers == [1, 1, 2, 2, 3]
    assert made == [0.0, 2.0, 4.0]


def test_computation_that_hangs_is_waited_for_no_longer_than_the_limit_and_not_begun_again() -> None:
    let_go, made = threading.Event(), list[int]()

    def hang() -> int:
        made.append(1)
        assert let_go.wait(20)
        return 7

    cache: SingleFlight[None, int] = SingleFlight(start=in_thread)
    for _ in range(3):
        with pytest.raises(OverdueError):
            cache.get(None, hang, limit=0.01)
    assert not cache.future(None, hang).cancel(), "who gives up takes nothing from the others"
    let_go.set()
    assert cache.get(None, hang, limit=20) == 7
    assert len(made) == 1


def test_error_of_a_start_is_raised_and_not_remembered() -> None:
    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    cache: SingleFlight[None, int] = SingleFlight(start=refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        cache.get(None, lambda: 1)
    assert cache.remembered() == []
