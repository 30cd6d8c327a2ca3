"""Runs work that may hang in daemon threads."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Value = TypeVar("Value")


def in_thread(work: Callable[[], Value]) -> Future[Value]:
    """Runs work in a daemon thread, which does not keep the process from exiting if it hangs; returns the future of its result.

    A caller that waits for the result cannot cancel it, so several callers may share the future.
    """
    future: Future[Value] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return future
