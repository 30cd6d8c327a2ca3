"""Work that may hang, in threads that nobody has to wait for."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

Value = TypeVar("Value")

log = logging.getLogger("portllm.figures")


def in_thread(work: Callable[[], Value]) -> Future[Value]:
    """Runs something in a daemon thread: what hangs may not keep the process from ending."""
    future: Future[Value] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return future


class Remembered(Generic[Value]):
    """A value that costs something to ask for: asked by one thread at a time, and remembered for a while.

    Args:
        ask: gives the value; may raise, and may hang.
        seconds: how long a value is good for.
        limit: how long somebody waits for a new one, in seconds.
    """

    def __init__(self, ask: Callable[[], Value], seconds: float, limit: float) -> None:
        self._ask, self._seconds, self._limit = ask, seconds, limit
        self._lock = threading.Lock()
        self._answer: Future[Value] | None = None
        self._asked = 0.0

    def value(self) -> Value | None:
        """The value, at most so old; None when there is none within the limit, for whatever reason."""
        with self._lock:
            answer = self._answer
            if answer is None or (answer.done() and (answer.exception() or time.monotonic() - self._asked > self._seconds)):
                answer = self._answer = in_thread(self._ask)
                self._asked = time.monotonic()
        wait([answer], self._limit)
        if not answer.done():
            return None
        if error := answer.exception():
            log.warning("nothing is shown of what could not be asked", exc_info=error)
            return None
        return answer.result()
