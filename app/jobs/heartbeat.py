"""The heartbeat of a worker, and the recovery of jobs whose worker has stopped sending heartbeats.

Open-source DBOS has no heartbeat: the job of a dead worker stays running forever unless recovery is called. All times come from
the database, so the clocks of machines may differ.
"""

import importlib.metadata
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from dbos import DBOS

from app.core.arithmetic import Device
from app.services.jobs import workers
from app.services.jobs.workers import WorkerInfo
from app.services.unit_of_work import UnitOfWork

DISTRIBUTION = "portllm-registry"

log = logging.getLogger("portllm.worker")


class WorkerHeartbeat:
    """Sends heartbeats from a thread of its own, and hands the jobs of dead workers to others.

    Args:
        begin: opens a unit of work.
        worker_info: the contents of the heartbeat.
        beat_seconds: the interval between heartbeats.
        ttl_seconds: seconds without a heartbeat after which a worker counts as dead.
    """

    def __init__(
        self,
        begin: Callable[[], AbstractContextManager[UnitOfWork]],
        worker_info: WorkerInfo,
        beat_seconds: float,
        ttl_seconds: float,
    ) -> None:
        self.worker_info = worker_info
        self._begin, self._beat_seconds, self._ttl = begin, beat_seconds, ttl_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)
        self._last = self._judges_from = 0.0

    @property
    def is_seen(self) -> bool:
        """Whether the others take this worker for alive."""
        return time.monotonic() - self._last <= self._ttl

    def announce(self) -> None:
        """Sends the first heartbeat. Call it before the first job, which others would otherwise take over as a dead worker's."""
        self._beat()

    def start(self) -> None:
        """Starts the thread; DBOS must be running."""
        self._thread.start()

    def stop(self) -> None:
        """Stops beating."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(self._beat_seconds + 1)

    def leave(self) -> None:
        """Takes the worker's row away: others take its jobs up at once, not when its time is over."""
        try:
            with self._begin() as uow:
                workers.leave(uow, self.worker_info.id)
        except Exception as error:  # noqa: BLE001  its silence says it too, only later
            log.warning("it could not be said that this worker ends: %s", error)

    def _live(self) -> None:
        while not self._stopping.wait(self._beat_seconds):
            try:
                self._beat()
                self._recover()
            except Exception as error:  # noqa: BLE001  whatever it is (the database is away), the next beat may reach it
                log.warning("no sign of life could be given: %s", error)

    def _beat(self) -> None:
        with self._begin() as uow:
            workers.beat(uow, self.worker_info)
        now = time.monotonic()
        if now - self._last > self._ttl or not self._judges_from:
            # Whoever could not reach the database, was paused or has just begun cannot tell whether the others were
            # silent or only unheard: they get the time in which the living speak.
            self._judges_from = now + self._ttl
        self._last = now

    def _recover(self) -> None:
        with self._begin() as uow:
            judges = time.monotonic() >= self._judges_from
            dead = (workers.dead(uow, self._ttl) if judges else workers.gone(uow)) - {self.worker_info.id}
            moved = workers.release_stranded(uow, self._ttl) if judges else 0
        if moved:
            log.warning("%d jobs that waited for an accelerator are done without: no worker that has one lives", moved)
        if dead:
            log.warning("jobs of %s are given to others: it is gone, or was silent too long", ", ".join(sorted(dead)))
            # Changes only rows that still are a dead executor's, so that two who judge alike do no harm.
            DBOS._recover_pending_workflows(sorted(dead))


def introduce(class_name: str, device: Device, url: str | None = None, labels: Mapping[str, str] | None = None) -> WorkerInfo:
    """What this process says of itself as a worker, under an id that no other ever had."""
    return WorkerInfo(
        id=process_id(), class_name=class_name, host=socket.gethostname(), pid=os.getpid(),
        version=importlib.metadata.version(DISTRIBUTION), url=url, device=device.name, memory_bytes=device.memory,
        labels=dict(labels or {}),
    )  # fmt: skip


def process_id() -> str:
    """Returns a globally unique name for this process: host, process id, and a random part."""
    return f"{socket.gethostname()[:100]}:{os.getpid()}:{secrets.token_hex(3)}"
