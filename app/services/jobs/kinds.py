"""Kinds of jobs: an object for each kind defines its order, the task that its process runs, and how its outcome is recorded.

A kind is defined in the area of its noun and registered in `app.composition`. The engine, reconciliation, cancellation, retries,
metrics, retention and fsck then handle it without further changes.
"""

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from sqlalchemy.orm import Session

from app.db import job_backed
from app.db.base import clock
from app.db.job_backed import JobBacked
from app.domain.errors import DomainError
from app.domain.principal import INSTALLATION, Principal
from app.domain.states import move
from app.services.access.quotas import require_room
from app.services.unit_of_work import UnitOfWork

CANCELLED = "job.cancelled"


class Subject(Protocol):
    """The row that a job works on: it has an owner and the id of the job of its current attempt."""

    @property
    def id(self) -> Any: ...

    @property
    def owner(self) -> Any: ...

    @property
    def job(self) -> str: ...


Row = TypeVar("Row", bound=Subject)
BackedRow = TypeVar("BackedRow", bound=JobBacked)
Order = TypeVar("Order")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Done(Generic[Order, Result]):
    """A job that ended with a result.

    Attributes:
        worker: the principal that acts for the job.
        kept: what `JobKind.keep` returned.
    """

    worker: Principal
    order: Order
    result: Result
    kept: Any


class JobKind(ABC, Generic[Row, Order, Result]):
    """A kind of job.

    Attributes:
        name: its name, which is part of the ids of its jobs.
        noun: the name of its subject in codes of errors, events and findings.
        task: the module whose function `run(order, context)` does the work, in a child process.
        result: the dataclass that `run` returns.
        preload: modules that `run` imports lazily, to be imported before the process starts.
        owner: the owner of all its jobs, if there is only one.
        merges: whether it computes merged bytes; live workers with an accelerator are preferred for that.
        urgent: whether its jobs run before all jobs that are not urgent.
        own_place: whether every run writes to a location of its own, which can be cleared even if the job was lost.
        retention: the retention period of its ended rows, by its name in `Retention`; None if they are kept.
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    task: ClassVar[str]
    result: type[Result]
    preload: ClassVar[tuple[str, ...]] = ()
    owner: ClassVar[str | None] = None
    merges: ClassVar[bool] = False
    urgent: ClassVar[bool] = False
    own_place: ClassVar[bool] = False
    retention: ClassVar[str | None] = None

    @abstractmethod
    def find(self, session: Session, subject: str) -> Row | None:
        """Returns the row of a subject, with the rows that it refers to."""

    @abstractmethod
    def waits(self, row: Row) -> bool:
        """Returns whether a locked row still waits for its job."""

    @abstractmethod
    def order(self, uow: UnitOfWork, row: Row) -> Order | None:
        """Makes the order of a locked row that waits; None if there is nothing to do. Repeats checks that may no longer hold.

        Raises:
            DomainError: the job fails with it.
        """

    def keep(self, uow: UnitOfWork, order: Order, result: Result) -> Any:  # noqa: ARG002
        """Moves the job's files to their final location, without a locked row; idempotent. Its result is passed to `record`."""
        return None

    @abstractmethod
    def record(self, uow: UnitOfWork, row: Row, done: Done[Order, Result]) -> None:
        """Records a result on a locked row that waits.

        Raises:
            CoreError, DomainError: the job fails with it, and nothing is recorded.
        """

    def fail(self, uow: UnitOfWork, row: Row, worker: Principal, problem: dict[str, Any]) -> None:
        """Records on a locked row that waits why its job failed or was cancelled. By default, only the job records this."""

    def clear(self, uow: UnitOfWork, order: Order) -> None:
        """Removes the files of a process that ended without a result."""

    @abstractmethod
    def restart(self, uow: UnitOfWork, principal: Principal, subject: str) -> str:
        """Starts the next attempt of a subject whose job failed or was cancelled, if the principal may; returns the job's id.

        Raises:
            DomainError: state.move, if it does not wait for another attempt.
        """

    def unfinished(self, session: Session) -> Sequence[tuple[str, str]]:  # noqa: ARG002
        """Returns (job, subject) of every row that waits, the oldest first; empty if rows of this kind have no such state."""
        return ()

    def prune(self, session: Session, before: dt.datetime, limit: int) -> int:
        """Deletes at most `limit` rows that ended before a time; returns how many. Only called if `retention` is set."""
        raise NotImplementedError

    def describe(self, row: Row) -> str:
        """Returns a name of a row for messages."""
        return str(row.id)

    def enqueue(self, uow: UnitOfWork, row: Row) -> str:
        """Enqueues the job of a row's current attempt; returns its id."""
        uow.tools.jobs.enqueue(uow.session, row.job, self.name, row.id, merges=self.merges, urgent=self.urgent)
        return row.job


class RowKind(JobKind[BackedRow, Order, Result]):
    """A kind whose subject is a row that records the state of its job.

    Attributes:
        model: the row's class.
        queued, running: the states in which it waits; equal if the row does not record that its job was started.
        failed, cancelled: the states of attempts that ended without a result.
    """

    model: type[BackedRow]
    queued: ClassVar[str] = "queued"
    running: ClassVar[str] = "running"
    failed: ClassVar[str] = "failed"
    cancelled: ClassVar[str] = "cancelled"

    def waits(self, row: BackedRow) -> bool:
        return row.state in (self.queued, self.running)

    def order(self, uow: UnitOfWork, row: BackedRow) -> Order | None:
        if row.state != self.running:
            row.state = move(self.noun, row.state, self.running)
            row.row_version += 1
        return self.make_order(uow, row)

    @abstractmethod
    def make_order(self, uow: UnitOfWork, row: BackedRow) -> Order:
        """Makes the order, see `order`."""

    def finish(self, uow: UnitOfWork, row: BackedRow, state: str, problem: dict[str, Any] | None = None) -> None:
        """Ends the current attempt of a row."""
        row.state = move(self.noun, row.state, state)
        row.problem, row.finished_at = problem, clock(uow.session)
        row.row_version += 1

    def fail(self, uow: UnitOfWork, row: BackedRow, worker: Principal, problem: dict[str, Any]) -> None:
        self.finish(uow, row, self.cancelled if problem["code"] == CANCELLED else self.failed, problem)
        self.tell_failed(uow, row, worker, problem)

    @abstractmethod
    def tell_failed(self, uow: UnitOfWork, row: BackedRow, worker: Principal, problem: dict[str, Any]) -> None:
        """Records the event that an attempt failed or was cancelled."""

    def restart(self, uow: UnitOfWork, principal: Principal, subject: str) -> str:
        row = self.find(uow.session, subject)
        if row is None:
            raise DomainError("state.move", noun=self.noun, state="gone", target=self.queued)
        self.allow(uow, principal, row)
        if row.owner != INSTALLATION:
            require_room(uow, row.owner, jobs=1)
        uow.lock(row)
        return self.again(uow, principal, row)

    def allow(self, uow: UnitOfWork, principal: Principal, row: BackedRow) -> None:
        """Raises an error if another attempt is not allowed; takes the locks that precede the row's in the lock order."""

    def again(self, uow: UnitOfWork, principal: Principal, row: BackedRow) -> str:
        """Starts the next attempt of a locked row; returns the job's id."""
        row.state = move(self.noun, row.state, self.queued)
        row.attempt, row.problem, row.finished_at = row.attempt + 1, None, None
        row.row_version += 1
        return self.begin(uow, principal, row)

    def begin(self, uow: UnitOfWork, principal: Principal, row: BackedRow) -> str:
        """Enqueues the current attempt of a queued row; returns the job's id."""
        self.tell_queued(uow, principal, row)
        return self.enqueue(uow, row)

    def tell_queued(self, uow: UnitOfWork, principal: Principal, row: BackedRow) -> None:
        """Records the event that the principal requested an attempt."""

    def unfinished(self, session: Session) -> Sequence[tuple[str, str]]:
        return job_backed.in_states(session, self.model, {self.queued, self.running})


Kinds = Mapping[str, JobKind[Any, Any, Any]]


def kinds_of(uow: UnitOfWork) -> Kinds:
    """Returns the registered kinds by name."""
    return cast(Kinds, uow.tools.kinds)
