"""Requeues jobs that the engine assigned to this process but that this process does not run.

The engine ends a job's execution in memory when it cannot write the outcome, for example because the database's disk is full.
The row would then say "running" for ever: its executor is alive, so no other worker takes the job over.
"""

import logging
import threading
from collections.abc import Callable, Collection

from app.services.jobs import jobs
from app.services.unit_of_work import Begin

CHECK_SECONDS = 10.0

log = logging.getLogger("portllm.jobs")


class LostJobs:
    """Periodically compares the engine's table with the jobs that run here, in a thread of its own.

    Args:
        read: opens a read-only unit of work.
        begin: opens a unit of work that writes.
        executor: the engine's id of this process.
        running: the jobs that are being executed in this process.
    """

    def __init__(self, read: Begin, begin: Begin, executor: str, running: Callable[[], Collection[str]]) -> None:
        self._read, self._begin, self._executor, self._running = read, begin, executor, running
        self._suspects = frozenset[str]()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lost-jobs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. Must be called before the engine stops, because that ends executions on purpose."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(CHECK_SECONDS)

    def check(self) -> int:
        """Requeues jobs that were assigned but not running in two consecutive checks; returns how many.

        One check is not enough, because a job is assigned a moment before its execution begins.
        """
        with self._read() as uow:
            assigned = jobs.assigned(uow, self._executor)
        missing = frozenset(assigned - set(self._running()))
        lost, self._suspects = missing & self._suspects, missing
        for job in sorted(lost):
            with self._begin() as uow:
                if jobs.requeue(uow, job, self._executor):
                    log.warning("%s was not run although this process had it; it waits again", job)
        return len(lost)

    def _run(self) -> None:
        while not self._stopping.wait(CHECK_SECONDS):
            try:
                self.check()
            except Exception as error:  # noqa: BLE001  the database is unreachable or full: the next check tries again
                log.warning("lost jobs could not be looked for: %s", error)
