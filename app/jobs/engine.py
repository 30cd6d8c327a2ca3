"""DBOS Transact: durable queues in our own database, work in children.

Rules learned by breaking it: the executor's id is unique for every process, or fixed where one service holds its data
directory alone and takes its own jobs up again at launch; the application version is constant (a hash of the code would
strand queued jobs on upgrade), arguments are portable JSON (the default is pickle), recovery is bounded, and a refused
progress write means the job is lost.
"""

import logging
import threading
from typing import Any

from dbos import DBOS, DBOSConfig, Queue, _sys_db
from sqlalchemy.exc import OperationalError

from app.db.engine import JOB_CONNECTIONS
from app.db.errors import is_full
from app.db.jobs import Claim
from app.domain.errors import DomainError
from app.jobs import spawn
from app.jobs.heartbeat import WorkerHeartbeat
from app.jobs.lost_jobs import LostJobs
from app.jobs.queue import APPLICATION, PORTABLE, PROGRESS, VERSION, WORKFLOW
from app.jobs.runner import JobRunner
from app.services.jobs.kinds import Kinds
from app.services.jobs.workers import CPU
from app.services.registry import Doing
from app.services.unit_of_work import Begin

EXECUTOR = "local"
# The name of DBOS's polling thread, which Python derives from its function. tests/jobs/test_engine_names.py checks this and
# the other DBOS internals that are used below.
LISTENER = "(queue_thread)"
STORED_QUEUE = _sys_db.queue_from_db_row
# The maximum number of times that workers start one job. It limits restarts after workers ended, gracefully or not; a job that
# crashes its own process is given up after `app.jobs.runner.ATTEMPTS`.
RECOVERIES = 10

log = logging.getLogger("portllm.jobs")


class Engine:
    """Runs jobs in child processes. A process can have only one engine at a time, because DBOS is a singleton.

    Args:
        url: the database.
        kinds: the kinds of jobs by name.
        begin: opens a unit of work.
        read: opens a read-only unit of work.
        concurrency: the maximum number of concurrent jobs.
        poll_seconds: how often it looks for jobs.
        class_name: the class whose jobs are run.
        heartbeat: the heartbeat of a worker; None for a service that is the only process of its database.
        device: where jobs compute merged bytes, by its name for torch.
        connections: the maximum number of database connections of the job engine.
    """

    def __init__(
        self, url: str, kinds: Kinds, begin: Begin, read: Begin, concurrency: int, poll_seconds: float, class_name: str = CPU,
        heartbeat: WorkerHeartbeat | None = None, device: str = CPU, connections: int = JOB_CONNECTIONS,
    ) -> None:  # fmt: skip
        self._url, self._begin, self._read, self._concurrency, self._poll_seconds = url, begin, read, concurrency, poll_seconds
        self._class, self._heartbeat, self._connections = class_name, heartbeat, connections
        self._executor = heartbeat.worker_info.id if heartbeat else EXECUTOR
        self._runner = JobRunner(kinds, begin, read, self._executor, device, _keep_progress)
        self._lost: LostJobs | None = None

    def start(self) -> None:
        """Launches DBOS; the jobs of a service that was alone are taken up again."""
        logging.getLogger("dbos").setLevel(logging.WARNING)
        logging.getLogger("dbos").addFilter(_is_news)
        if self._heartbeat:
            self._heartbeat.announce()
        config = DBOSConfig(
            name=APPLICATION, system_database_url=self._url, executor_id=self._executor, application_version=VERSION,
            sys_db_pool_size=self._connections, log_level="WARNING", run_migrations=self._heartbeat is None,
        )  # fmt: skip
        instance = DBOS(config=config)
        self._register()
        DBOS.listen_queues([self._class])
        self._keep_own_limits()
        DBOS.launch()
        DBOS.register_queue(
            self._class, worker_concurrency=self._concurrency, polling_interval_sec=self._poll_seconds,
            on_conflict="always_update",
        )  # fmt: skip
        # The executions in this process's memory, until their outcomes are written.
        self._lost = LostJobs(self._read, self._begin, self._executor, instance._active_workflows_set.activeList)
        self._lost.start()
        if self._heartbeat:
            self._heartbeat.start()

    def _keep_own_limits(self) -> None:
        """Has DBOS go by what this process was told. It keeps the limits of a queue in one row for all workers: whatever the last
        to start was told, of them all, and at a start what the row said before.
        """

        def queue_from_db_row(row: Any, **more: Any) -> Queue:
            queue = STORED_QUEUE(row, **more)
            if queue.name == self._class:
                queue._worker_concurrency, queue._polling_interval_sec = self._concurrency, self._poll_seconds
            return queue

        _sys_db.queue_from_db_row = queue_from_db_row

    def doing(self) -> list[Doing]:
        """The jobs that run now."""
        return self._runner.doing()

    def check(self) -> None:
        """Raises `DomainError` (worker.unready) unless jobs are taken from their queue."""
        if not any(thread.is_alive() and thread.name.endswith(LISTENER) for thread in threading.enumerate()):
            raise DomainError("worker.unready", reason="takes no jobs")

    def stop(self) -> None:
        """Takes no more jobs, ends children and hands running jobs back: to the other workers, or to the next start."""
        if self._heartbeat:
            self._heartbeat.stop()
        if self._lost:
            self._lost.stop()
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=0)
        spawn.stop()
        if self._heartbeat:
            self._heartbeat.leave()

    def _register(self) -> None:
        runner = self._runner

        # The runner retries the child process; the step only makes the outcome durable, and can be cancelled.
        @DBOS.step(name="run", preemptible=True)
        async def run(job: str, kind: str, held: Claim) -> dict[str, Any]:
            return await runner.attempt(job, kind, held)

        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=RECOVERIES)
        async def portllm_job(job: str, kind: str, subject: str) -> dict[str, Any]:  # noqa: ARG001  of every job that is stored
            return await runner.job(job, kind, run, _is_over)


async def _keep_progress(progress: dict[str, Any]) -> None:
    """Stores progress. Once another worker has the job, DBOS raises, and the error ends the child. A full disk is ignored."""
    try:
        await DBOS.set_event_async(PROGRESS, progress, serialization_type=PORTABLE)
    except OperationalError as error:
        if not is_full(error):
            raise


def _is_news(record: logging.LogRecord) -> bool:
    """DBOS logs a cancelled job as an error, with its trace; it is what somebody asked for."""
    return not (record.exc_info and record.exc_info[1] and _is_cancel(record.exc_info[1]))


def _is_cancel(error: BaseException) -> bool:
    return type(error).__name__ in ("DBOSWorkflowCancelledError", "DBOSAwaitedWorkflowCancelledError")


def _is_over(error: Exception) -> bool:
    """Returns whether the execution here is over: the job was cancelled, another worker has it, or the engine is stopping."""
    return DBOS.workflow_id is None or _is_cancel(error) or type(error).__name__ == "DBOSWorkflowConflictIDError"
