"""Supervision of child processes: starts them, replaces those that end or hang, and stops them gracefully."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from app.cli.serve import end_at_once

LOOK_SECONDS = 0.5
BEAT_SECONDS = 1.0
START_SECONDS = 120.0
# A process that reads large patches may report late; a process that hangs never reports again.
SILENT_SECONDS = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
STEADY_SECONDS = 60.0

log = logging.getLogger("portllm.processes")


Start = Callable[[], tuple[BaseProcess, Connection]]


class Child:
    """One child process and its replacements.

    Args:
        start: starts a process; returns it and the pipe on which it reports whether it is ready (`report`).
        lost: called with the id of a process that ended.
    """

    def __init__(self, start: Start, lost: Callable[[int], object]) -> None:
        self._start, self._lost = start, lost
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._failures, self._due = 0, 0.0
        self._heard, self._ready_since = 0.0, float("inf")

    @property
    def is_ready(self) -> bool:
        """Whether the process accepts connections."""
        return self._ready_since != float("inf")

    def look(self) -> None:
        """Starts the process when it is due, reads its reports, and discards it if it has ended or stopped reporting."""
        now = time.monotonic()
        if self._process is None or self._pipe is None:
            if now >= self._due:
                self._begin(now)
            return
        try:
            while self._pipe.poll():
                is_ready = self._pipe.recv_bytes() == READY
                if is_ready:
                    self._heard, self._ready_since = now, min(self._ready_since, now)
        except (EOFError, OSError):
            pass  # the process has ended or is about to
        if not self._process.is_alive():
            self._give_up(now, "ended")
        elif now - self._heard > (SILENT_SECONDS if self.is_ready else START_SECONDS):
            self._give_up(now, "does not report")

    def _begin(self, now: float) -> None:
        try:
            self._process, self._pipe = self._start()
        except OSError as error:  # no resources for another process at the moment
            log.warning("no process can be started (%s); trying again in %g s", error.strerror, self._back_off(now))
        else:
            self._heard = now

    def _give_up(self, now: float, reason: str) -> None:
        assert self._process is not None  # noqa: S101
        process, pid = self._process, self._process.pid or 0
        process.kill()
        process.join()
        log.warning("process %s %s (exit code %s); starting another in %g s", pid, reason, process.exitcode, self._back_off(now))
        self._process, self._ready_since = None, float("inf")
        self._lost(pid)

    def _back_off(self, now: float) -> float:
        """Sets the time of the next start by exponential back-off, reset after a process ran steadily. Returns the pause."""
        self._failures = 1 if now - self._ready_since > STEADY_SECONDS else self._failures + 1
        pause = min(FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10), LONGEST_PAUSE)
        self._due = now + pause
        return pause

    def terminate(self) -> None:
        """Sends SIGTERM to the process, which then stops gracefully."""
        if self._process is not None and self._process.is_alive() and self._process.pid:
            os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kills the process."""
        if self._process is not None:
            self._process.kill()

    def join(self, seconds: float) -> None:
        """Waits for the process to end, and kills it after `seconds`."""
        if self._process is None:
            return
        self._process.join(seconds)
        if self._process.is_alive():
            log.warning("process %s did not stop in time and is ended", self._process.pid)
            self._process.kill()
            self._process.join()


def supervise(
    start: Start, count: int, ready: Callable[[], object], stopping: Callable[[], object], lost: Callable[[int], object],
    stop_seconds: float, start_seconds: float = START_SECONDS,
) -> bool:  # fmt: skip
    """Keeps `count` processes running until SIGTERM or SIGINT. A second signal kills all of them at once.

    A process that ends is always replaced. While its replacement cannot start, for example because the database is unreachable,
    the start is retried with exponential back-off. The supervisor gives up only during the first start, if no process became
    ready in time. Once one process was ready, the loss of a process never ends the service, even while others still start.

    Args:
        start: starts one process, see `Child`.
        count: the number of processes.
        ready: called once, when all processes accept connections.
        stopping: called once, when the stop begins.
        lost: called with the id of each process that ended and is replaced.
        stop_seconds: how long the processes get to stop gracefully.
        start_seconds: how long the first start may take.

    Returns:
        Whether the supervisor gave up.
    """
    children = [Child(start, lost) for _ in range(count)]
    begun, has_begun, has_answered = time.monotonic(), False, False
    with _stop_signals(children) as stop:
        while not stop.wait(LOOK_SECONDS):
            for child in children:
                child.look()
            has_answered = has_answered or any(child.is_ready for child in children)
            if not has_begun and all(child.is_ready for child in children):
                has_begun = True
                ready()
            if not has_answered and time.monotonic() - begun > start_seconds:
                break
        gave_up = not stop.is_set()
        stopping()
        for child in children:
            child.terminate()
        end = time.monotonic() + stop_seconds
        for child in children:
            child.join(max(0.0, end - time.monotonic()))
    return gave_up


@contextmanager
def _stop_signals(children: Sequence[Child]) -> Iterator[threading.Event]:
    """Yields an event that the first SIGTERM or SIGINT sets; a second signal kills all children and ends this process."""
    stop = threading.Event()

    def handle(number: int, _frame: object) -> None:
        if stop.is_set():
            for child in children:
                child.kill()
            end_at_once(number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


READY, STARTING = b"ready", b"starting"


def report(pipe: Connection, is_ready: Callable[[], bool], orphaned: Callable[[], object]) -> None:
    """Starts a thread in a child process that reports every second whether the child is ready.

    Args:
        pipe: the pipe to the parent.
        is_ready: whether the child accepts connections.
        orphaned: called once when the parent has ended.
    """

    def run() -> None:
        while True:
            try:
                pipe.send_bytes(READY if is_ready() else STARTING)
            except OSError:
                orphaned()
                return
            time.sleep(BEAT_SECONDS)

    threading.Thread(target=run, name="report", daemon=True).start()


def spawn(target: Callable[..., object], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Starts a fresh Python process that calls `target(pipe, *arguments)`; returns it and the parent's end of the pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(theirs, *arguments))
    process.start()
    theirs.close()
    return process, ours
