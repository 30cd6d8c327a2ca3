"""DBOS Transact: durable queues in our own database, work in children.

Rules learned by breaking it: the executor's id is unique for every process, or fixed where one service holds its data
directory alone and takes its own jobs up again at launch; the application version is constant (a hash of the code would
strand queued jobs on upgrade), arguments are portable JSON (the default is pickle), recovery is bounded, and a refused
progress write means the job is lost.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dbos import DBOS, DBOSConfig, Queue, _sys_db
from sqlalchemy.exc import InterfaceError, OperationalError

from app.core.errors import CoreError
from app.db.engine import JOB_CONNECTIONS
from app.db.errors import is_full
from app.db.jobs import Claim
from app.domain.errors import DomainError
from app.domain.log_context import JOB_ID
from app.jobs import spawn, supervise
from app.jobs.heartbeat import Presence
from app.jobs.kinds import KINDS
from app.jobs.lost_jobs import LostJobs
from app.jobs.queue import APPLICATION, PORTABLE, PROGRESS, VERSION, WORKFLOW
from app.services.jobs import jobs
from app.services.jobs.workers import CPU
from app.services.registry import Doing
from app.services.unit_of_work import Begin, UnitOfWork

EXECUTOR = "local"
# The name of DBOS's polling thread, which Python derives from its function. tests/jobs/test_engine_names.py checks this and
# the other DBOS internals that are used below.
LISTENER = "(queue_thread)"
STORED_QUEUE = _sys_db.queue_from_db_row
ATTEMPTS = 3
# Starts of one job over its life. A job that breaks its own process is given up after `ATTEMPTS`; what counts here is the
# end of whole workers, in peace (a rolling restart) or not.
RECOVERIES = 10
TELL_SECONDS = 10.0
# How long a result waits for a database that is away, in seconds, and how long between two tries.
PATIENCE, LONGEST_PAUSE = 600.0, 5.0

log = logging.getLogger("portllm.jobs")

Result = TypeVar("Result")


class Engine:
    """Runs jobs in this process's children; there is one at a time in a process, because DBOS is a singleton.

    Args:
        url: the database.
        begin: opens a unit of work.
        read: opens a read-only unit of work.
        concurrency: how many jobs at once.
        poll_seconds: how often it looks for jobs.
        class_name: the class whose jobs are run.
        presence: of a worker among others; None for a service that has its database to itself.
        device: where jobs compute merged bytes, by its name for torch.
        connections: the maximum number of database connections of the job engine.
    """

    def __init__(
        self, url: str, begin: Begin, read: Begin, concurrency: int, poll_seconds: float, class_name: str = CPU,
        presence: Presence | None = None, device: str = CPU, connections: int = JOB_CONNECTIONS,
    ) -> None:  # fmt: skip
        self._url, self._begin, self._read, self._concurrency, self._poll_seconds = url, begin, read, concurrency, poll_seconds
        self._class, self._presence, self._device, self._connections = class_name, presence, device, connections
        self._executor = presence.worker_info.id if presence else EXECUTOR
        self._running: dict[str, Doing] = {}
        self._lost: LostJobs | None = None

    def start(self) -> None:
        """Launches DBOS; the jobs of a service that was alone are taken up again."""
        logging.getLogger("dbos").setLevel(logging.WARNING)
        logging.getLogger("dbos").addFilter(_is_news)
        if self._presence:
            self._presence.announce()
        config = DBOSConfig(
            name=APPLICATION, system_database_url=self._url, executor_id=self._executor, application_version=VERSION,
            sys_db_pool_size=self._connections, log_level="WARNING", run_migrations=self._presence is None,
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
        if self._presence:
            self._presence.start()

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
        return list(self._running.values())

    def check(self) -> None:
        """Raises `DomainError` (worker.unready) unless jobs are taken from their queue."""
        if not any(thread.is_alive() and thread.name.endswith(LISTENER) for thread in threading.enumerate()):
            raise DomainError("worker.unready", reason="takes no jobs")

    def stop(self) -> None:
        """Takes no more jobs, ends children and hands running jobs back: to the other workers, or to the next start."""
        if self._presence:
            self._presence.stop()
        if self._lost:
            self._lost.stop()
        DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=0)
        spawn.stop()
        if self._presence:
            self._presence.leave()

    def _register(self) -> None:
        @DBOS.step(
            name="run", preemptible=True, retries_allowed=True, max_attempts=ATTEMPTS, interval_seconds=2, backoff_rate=2,
            should_retry=_can_pass,
        )  # fmt: skip
        async def run(job: str, kind: str, subject: str, held: Claim) -> dict[str, Any]:
            JOB_ID.set(job)
            return await self._run(job, kind, subject, held)

        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=RECOVERIES)
        async def portllm_job(job: str, kind: str, subject: str) -> dict[str, Any]:
            JOB_ID.set(job)
            held = await self._patiently(jobs.claim, job, self._executor)
            log.info("started, attempt %s", held.attempt)
            self._running[job] = Doing(job, kind, {})
            try:
                await self._patiently(jobs.started, job, kind, subject, held)
                while True:
                    try:
                        return await run(job, kind, subject, held)
                    except OperationalError as error:
                        # The engine could not record the step. When it runs again, it finds the job's recorded result, or
                        # repeats the work.
                        if not is_full(error):
                            raise
                        log.warning("the database has no space left: waits")
                    await asyncio.sleep(LONGEST_PAUSE)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                if DBOS.workflow_id is None or _is_cancel(error) or _is_lost(error):
                    raise
                return await self._refuse(job, kind, subject, held, _problem(error))
            finally:
                self._running.pop(job, None)

    async def _run(self, job: str, kind: str, subject: str, held: Claim) -> dict[str, Any]:
        try:
            order = await self._patiently(KINDS[kind].order, subject)
        except DomainError as error:
            if _can_pass(error):
                raise
            return await self._refuse(job, kind, subject, held, error.to_problem())
        if order is None:
            return {"result": None}
        told = time.monotonic()

        async def report(progress: dict[str, Any]) -> None:
            nonlocal told
            self._running[job] = Doing(job, kind, progress)
            await _keep_progress(progress)
            if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                await self._patiently(jobs.progressed, job, kind, subject, progress)

        try:
            final = await supervise.run({"kind": kind, "order": order | {"device": self._device}}, report)
        except BaseException:
            await asyncio.to_thread(self._clear, job, kind, held, order)
            raise
        if "error" in final:
            await asyncio.to_thread(self._clear, job, kind, held, order)
            return await self._refuse(job, kind, subject, held, final["error"])
        try:
            await self._patiently(KINDS[kind].keep, final["result"], begin=self._read)
            await self._patiently(_record, job, kind, subject, held, final["result"])
        except CoreError as error:  # only when it was to be recorded did it show that it cannot be used
            return await self._refuse(job, kind, subject, held, error.to_problem())
        log.info("done")
        return {"result": "recorded"}

    def _clear(self, job: str, kind: str, held: Claim, order: dict[str, Any]) -> None:
        """Drops what a child left, unless another worker has the job by now: then it lies where that one writes."""
        try:
            with self._begin() as uow:
                if KINDS[kind].own_place or jobs.is_ours(uow, job, held):
                    KINDS[kind].clear(uow, order)
        except Exception as error:  # noqa: BLE001  why the child ended matters more; the sweep clears what is left
            log.warning("what %s left could not be dropped: %s", job, error)

    async def _refuse(self, job: str, kind: str, subject: str, held: Claim, problem: dict[str, Any]) -> dict[str, Any]:
        await self._patiently(_reject, job, kind, subject, held, problem)
        log.warning("failed: %s", problem["code"])
        return {"error": problem}

    async def _patiently(self, use_case: Callable[..., Result], *arguments: Any, begin: Begin | None = None) -> Result:
        """Runs a use case in a transaction, and retries while database or store do not answer: hours of work may depend on it.

        It waits at most `PATIENCE` seconds for an unreachable database, and without limit for a full one to get space.
        """
        deadline, pause = time.monotonic() + PATIENCE, 0.5
        while True:
            try:
                return await asyncio.to_thread(self._in_unit, use_case, *arguments, begin=begin)
            except (OperationalError, InterfaceError, DomainError) as error:
                if is_full(error):
                    deadline = time.monotonic() + PATIENCE
                elif not _can_pass(error) or time.monotonic() > deadline:
                    raise
                log.info("waits: %s", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _in_unit(self, use_case: Callable[..., Result], *arguments: Any, begin: Begin | None = None) -> Result:
        with (begin or self._begin)() as uow:
            return use_case(uow, *arguments)


async def _keep_progress(progress: dict[str, Any]) -> None:
    """Stores progress. Once another worker has the job, DBOS raises, and the error ends the child. A full disk is ignored."""
    try:
        await DBOS.set_event_async(PROGRESS, progress, serialization_type=PORTABLE)
    except OperationalError as error:
        if not is_full(error):
            raise


def _record(uow: UnitOfWork, job: str, kind: str, subject: str, held: Claim, result: dict[str, Any]) -> None:
    if KINDS[kind].record(uow, subject, job, held, result):
        jobs.done(uow, job, kind, subject)


def _reject(uow: UnitOfWork, job: str, kind: str, subject: str, held: Claim, problem: dict[str, Any]) -> None:
    jobs.require(uow, job, held)
    KINDS[kind].reject(uow, subject, problem)
    jobs.failed(uow, job, kind, subject, problem)


def _can_pass(error: BaseException) -> bool:
    """Whether the same work may succeed later: a process that was killed, a store or database that did not answer.

    A refusal stays one, however often it is asked for.
    """
    if is_full(error):  # the caller waits for space itself; three retries would be over long before
        return False
    return isinstance(error, supervise.ChildError | supervise.BusyError | OperationalError | InterfaceError) or (
        isinstance(error, DomainError) and error.kind == "busy"
    )


def _problem(error: Exception) -> dict[str, Any]:
    """What went wrong in the end, in the language of all errors."""
    last = (getattr(error, "errors", None) or [error])[-1]
    if isinstance(last, supervise.BusyError):
        return last.problem
    if not isinstance(last, DomainError):
        last = DomainError("job.crashed", reason=str(last)[:300])
    return last.to_problem()


def _is_news(record: logging.LogRecord) -> bool:
    """DBOS logs a cancelled job as an error, with its trace; it is what somebody asked for."""
    return not (record.exc_info and record.exc_info[1] and _is_cancel(record.exc_info[1]))


def _is_cancel(error: BaseException) -> bool:
    return type(error).__name__ in ("DBOSWorkflowCancelledError", "DBOSAwaitedWorkflowCancelledError")


def _is_lost(error: Exception) -> bool:
    """Whether another worker has the job: nothing may be said about it any more."""
    return type(error).__name__ == "DBOSWorkflowConflictIDError" or (isinstance(error, DomainError) and error.code == "job.lost")
