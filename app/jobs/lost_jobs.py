"""Takes up again the jobs that the engine assigns to this process and that this process does not run.

The engine ends a job's execution in memory when it cannot write the outcome, for one because the disk of the database is full.
The row then says "running" for ever: its executor is alive, so no other worker takes it over.
"""

import logging
import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from app.services import jobs
from app.services.uow import UnitOfWork

CHECK_SECONDS = 10.0

log = logging.getLogger("portllm.jobs")

Begin = Callable[[], AbstractContextManager[UnitOfWork]]


class LostJobs:
    """Compares what the engine's table says with what runs, at intervals in a thread of its own.

    Args:
        read: opens a unit of work that reads.
        begin: opens one that writes.
        executor: this process, by the engine's name for it.
        running: the jobs whose execution is in this process's memory.
    """

    def __init__(self, read: Begin, begin: Begin, executor: str, running: Callable[[], Collection[str]]) -> None:
        self._read, self._begin, self._executor, self._running = read, begin, executor, running
        self._suspects = frozenset[str]()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lost-jobs", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; called before the engine stops, which ends executions on purpose."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(CHECK_SECONDS)

    def check(self) -> int:
        """Returns jobs to their queue that were assigned and not run at two checks in a row; how many.

        One check is not enough: a job is assigned a moment before its execution begins.
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
            except Exception as error:  # noqa: BLE001  the database is away or full: the next check may reach it
                log.warning("lost jobs could not be looked for: %s", error)
