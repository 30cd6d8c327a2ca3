"""The supervision of the processes of `serve --processes N`, without the service."""

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from app.cli.supervisor import report, spawn, supervise
from tests.support.service_process import PATIENCE


def never_ready(pipe: Connection) -> None:
    """A process that cannot start."""
    sys.exit(3)


def ready_at_once(pipe: Connection) -> None:
    """A process that accepts connections until it is asked to stop."""
    report(pipe, lambda: True, lambda: None)
    signal.pause()


def test_supervisor_gives_up_first_start_of_processes_that_cannot_start() -> None:
    """It says so, after several tries with growing pauses: the caller must not end with exit code 0."""
    started: list[BaseProcess] = []

    def start() -> tuple[BaseProcess, Connection]:
        process, pipe = spawn(never_ready)
        started.append(process)
        return process, pipe

    lost: list[int] = []
    stopped: list[bool] = []
    gave_up = supervise(
        start, 1, ready=lambda: None, stopping=lambda: stopped.append(True), lost=lost.append, stop_seconds=5,
        start_seconds=6 * PATIENCE,
    )  # fmt: skip
    assert (gave_up, stopped) == (True, [True])
    assert len(started) >= 2
    assert {process.exitcode for process in started} <= {3, -signal.SIGTERM}
    assert lost[0] == started[0].pid


def test_supervisor_does_not_give_up_while_one_process_answers() -> None:
    """A process that cannot start is tried again, however long the first start of all of them takes."""
    started: list[BaseProcess] = []

    def start() -> tuple[BaseProcess, Connection]:
        process, pipe = spawn(never_ready if started else ready_at_once)
        started.append(process)
        return process, pipe

    start_seconds = 5.0 * PATIENCE
    stop = threading.Timer(start_seconds + 2, os.kill, [os.getpid(), signal.SIGTERM])
    stop.start()
    try:
        gave_up = supervise(
            start, 2, ready=lambda: None, stopping=lambda: None, lost=lambda _: None, stop_seconds=5 * PATIENCE,
            start_seconds=start_seconds,
        )  # fmt: skip
    finally:
        stop.cancel()
    assert not gave_up
    assert len(started) >= 3


def test_supervisor_retries_a_start_for_which_the_system_has_no_room() -> None:
    """It ends in order once asked, and then it did not give up."""
    tries: list[int] = []

    def start() -> tuple[BaseProcess, Connection]:
        tries.append(1)
        if len(tries) == 1:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return spawn(ready_at_once)

    gave_up = supervise(
        start, 1, ready=lambda: signal.raise_signal(signal.SIGTERM), stopping=lambda: None, lost=lambda _: None,
        stop_seconds=5 * PATIENCE,
    )  # fmt: skip
    assert (gave_up, len(tries)) == (False, 2)
