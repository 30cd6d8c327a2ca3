"""Runs jobs: the state machine from claim to recorded outcome, without the engine around it.

`app.jobs.engine` calls `JobRunner.job` for every job that it dequeues, and makes each call of `JobRunner.attempt` a durable step.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError

from app.core.errors import CoreError
from app.db.errors import is_full
from app.db.jobs import Claim
from app.domain.errors import DomainError
from app.domain.log_context import JOB_ID
from app.jobs import supervise
from app.jobs.codec import CodecError, decode
from app.jobs.supervise import BusyError, ChildError, OnProgress
from app.services.jobs import attempts
from app.services.jobs.attempts import AnyKind
from app.services.jobs.kinds import Kinds
from app.services.registry import Doing
from app.services.unit_of_work import Begin

# How often a job's process is started before the job fails, and the pause before the next start, in seconds; it doubles.
ATTEMPTS, FIRST_PAUSE = 3, 2.0
TELL_SECONDS = 10.0
# How long a result waits for a database that is away, in seconds, and how long between two tries.
PATIENCE, LONGEST_PAUSE = 600.0, 5.0

log = logging.getLogger("portllm.jobs")

Outcome = dict[str, Any]
Step = Callable[[str, str, Claim], Awaitable[Outcome]]
Result = TypeVar("Result")


class RunChild(Protocol):
    """Does the work of an order in another process; see `app.jobs.supervise.run`."""

    async def __call__(
        self, task: str, preload: Sequence[str], order: Any, device: str, on_progress: OnProgress, /
    ) -> dict[str, Any]: ...


async def keep_nothing(progress: dict[str, Any]) -> None:
    """Does not store progress."""


class JobRunner:
    """Runs jobs in child processes.

    Args:
        kinds: the kinds of jobs by name.
        begin: opens a unit of work.
        read: opens a read-only unit of work.
        executor: the engine's id of this process.
        device: where jobs compute merged bytes, by its name for torch.
        keep_progress: stores progress for display; raises an error if the job was lost.
        run_child: does the work of an order in another process.
        first_pause: seconds before the second start of a job's process.
    """

    def __init__(
        self, kinds: Kinds, begin: Begin, read: Begin, executor: str, device: str = "cpu",
        keep_progress: OnProgress = keep_nothing, run_child: RunChild = supervise.run, first_pause: float = FIRST_PAUSE,
    ) -> None:  # fmt: skip
        self._kinds, self._begin, self._read, self._executor, self._device = kinds, begin, read, executor, device
        self._keep_progress, self._run_child, self._first_pause = keep_progress, run_child, first_pause
        self._running: dict[str, Doing] = {}

    def doing(self) -> list[Doing]:
        """Returns the jobs that run now."""
        return list(self._running.values())

    async def job(self, job: str, kind: str, step: Step, is_over: Callable[[Exception], bool] = lambda _: False) -> Outcome:
        """Runs a job until its outcome is recorded.

        Args:
            job: its id.
            kind: the name of its kind.
            step: calls `attempt`, and makes its outcome durable.
            is_over: whether an error means that the engine ended the execution, so that nothing may be recorded any more.

        Returns:
            {"result": ...} or {"error": problem}.
        """
        JOB_ID.set(job)
        held = await self._patiently(attempts.claim, job, self._executor)
        log.info("started, attempt %s", held.attempt)
        self._running[job] = Doing(job, kind, {})
        try:
            await self._patiently(attempts.start, self._kinds[kind], job, held)
            while True:
                try:
                    return await step(job, kind, held)
                except OperationalError as error:
                    # The engine could not record the step. When it runs again, it finds the job's recorded result, or repeats
                    # the work.
                    if not is_full(error):
                        raise
                    log.warning("the database has no space left: waits")
                await asyncio.sleep(LONGEST_PAUSE)
        except Exception as error:
            if is_over(error) or _is_lost(error):
                raise
            return await self._reject(self._kinds[kind], job, held, _problem(error))
        finally:
            self._running.pop(job, None)

    async def attempt(self, job: str, kind: str, held: Claim) -> Outcome:
        """Does the work of a job and records its outcome; restarts its process after errors that can pass."""
        JOB_ID.set(job)
        for number in range(ATTEMPTS - 1):
            try:
                return await self._attempt(self._kinds[kind], job, held)
            except Exception as error:
                if not _can_pass(error):
                    raise
                log.warning("starts again: %s", error)
            await asyncio.sleep(self._first_pause * 2**number)
        return await self._attempt(self._kinds[kind], job, held)

    async def _attempt(self, kind: AnyKind, job: str, held: Claim) -> Outcome:
        try:
            order = await self._patiently(attempts.make_order, kind, job)
        except DomainError as error:
            if _can_pass(error):
                raise
            return await self._reject(kind, job, held, error.to_problem())
        if order is None:
            return {"result": None}
        try:
            final = await self._run_child(kind.task, kind.preload, order, self._device, self._reporter(kind, job))
            if "error" not in final:
                result = _decode(kind, final["result"])
        except BaseException:
            await asyncio.to_thread(self._clear, kind, job, held, order)
            raise
        if "error" in final:
            await asyncio.to_thread(self._clear, kind, job, held, order)
            return await self._reject(kind, job, held, final["error"])
        try:
            await self._patiently(attempts.keep, kind, job, held, order, result, begin=self._read)
            await self._patiently(attempts.record, kind, job, held, order, result)
        except CoreError as error:  # only when it was to be recorded did it show that it cannot be used
            return await self._reject(kind, job, held, error.to_problem())
        log.info("done")
        return {"result": "recorded"}

    def _reporter(self, kind: AnyKind, job: str) -> OnProgress:
        """Returns the callback that is awaited with every progress report of a job's process."""
        told = time.monotonic()

        async def report(progress: dict[str, Any]) -> None:
            nonlocal told
            self._running[job] = Doing(job, kind.name, progress)
            await self._keep_progress(progress)
            if time.monotonic() - told >= TELL_SECONDS:
                told = time.monotonic()
                await self._patiently(attempts.report, kind, job, progress)

        return report

    def _clear(self, kind: AnyKind, job: str, held: Claim, order: Any) -> None:
        try:
            self._in_unit(attempts.clear, kind, job, held, order)
        except Exception as error:  # noqa: BLE001  why the child ended matters more; the sweep clears what is left
            log.warning("what %s left could not be dropped: %s", job, error)

    async def _reject(self, kind: AnyKind, job: str, held: Claim, problem: dict[str, Any]) -> Outcome:
        await self._patiently(attempts.reject, kind, job, held, problem)
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


def _decode(kind: AnyKind, result: Any) -> Any:
    try:
        return decode(kind.result, result)
    except CodecError as error:
        raise ChildError(f"its result cannot be read: {error}") from error


def _can_pass(error: BaseException) -> bool:
    """Returns whether the same work may succeed later: a process that was killed, a store or database that did not answer.

    A refusal is permanent and is not retried.
    """
    if is_full(error):  # the caller waits for space itself; three retries would be over long before
        return False
    return isinstance(error, ChildError | BusyError | OperationalError | InterfaceError) or (
        isinstance(error, DomainError) and error.kind == "busy"
    )


def _problem(error: Exception) -> dict[str, Any]:
    """Returns why a job failed in the end, as a problem."""
    if isinstance(error, BusyError):
        return error.problem
    if not isinstance(error, DomainError):
        error = DomainError("job.crashed", reason=str(error)[:300])
    return error.to_problem()


def _is_lost(error: Exception) -> bool:
    """Returns whether another worker has the job: nothing may be recorded about it any more."""
    return isinstance(error, DomainError) and error.code == "job.lost"
