"""Kinds of jobs: one object per kind says how its order is made, what its process runs, and how its outcome is recorded.

A kind is defined beside its noun and registered in `app.composition`; the engine, reconciliation, cancellation, retries, metrics,
retention and fsck work on whatever is registered.
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
    """What a job is about: a row with an owner, and the job of its current attempt."""

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
        worker: acts for the job.
        kept: what `JobKind.keep` returned.
    """

    worker: Principal
    order: Order
    result: Result
    kept: Any


class JobKind(ABC, Generic[Row, Order, Result]):
    """A kind of job.

    Attributes:
        name: part of the ids of its jobs.
        noun: what its subject is called: in codes of errors, events and findings.
        task: the module whose `run(order, context)` does the job in a process of its own.
        result: the dataclass that `run` returns.
        preload: modules that `run` imports late, for the process to have from the start.
        owner: the only owner of its jobs, where there is only one.
        merges: whether it computes merged bytes, which workers with an accelerator do where any lives.
        urgent: whether its jobs run before all that are not urgent.
        own_place: whether every run writes to a place of its own, which can be cleared even when the job was lost.
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
        """Makes the order of a locked row that waits; None if there is nothing to do. What may have changed is checked again.

        Raises:
            DomainError: the job fails with it.
        """

    def keep(self, uow: UnitOfWork, order: Order, result: Result) -> Any:  # noqa: ARG002
        """Moves what the job wrote to where it stays, while no row is locked; `record` gets what this returns. Idempotent."""
        return None

    @abstractmethod
    def record(self, uow: UnitOfWork, row: Row, done: Done[Order, Result]) -> None:
        """Records a result on a locked row that waits.

        Raises:
            CoreError, DomainError: the job fails with it, and nothing is recorded.
        """

    def fail(self, uow: UnitOfWork, row: Row, worker: Principal, problem: dict[str, Any]) -> None:
        """Records on a locked row that waits why its job failed or was cancelled; by default, only the job itself says so."""

    def clear(self, uow: UnitOfWork, order: Order) -> None:
        """Removes what a process left that ended without a result."""

    @abstractmethod
    def restart(self, uow: UnitOfWork, principal: Principal, subject: str) -> str:
        """Starts the next attempt of a subject whose job failed or was cancelled, for a principal who may; returns the job.

        Raises:
            DomainError: state.move, if it does not wait for another attempt.
        """

    def unfinished(self, session: Session) -> Sequence[tuple[str, str]]:  # noqa: ARG002
        """Returns (job, subject) of every row that waits, the oldest first; nothing where waiting is no state of the row."""
        return ()

    def prune(self, session: Session, before: dt.datetime, limit: int) -> int:
        """Deletes at most `limit` rows that ended before a moment; returns how many. Only called with a `retention`."""
        raise NotImplementedError

    def describe(self, row: Row) -> str:
        """Returns a name of a row for people."""
        return str(row.id)

    def enqueue(self, uow: UnitOfWork, row: Row) -> str:
        """Enqueues the job of a row's current attempt; returns its id."""
        uow.tools.jobs.enqueue(uow.session, row.job, self.name, row.id, merges=self.merges, urgent=self.urgent)
        return row.job


class RowKind(JobKind[BackedRow, Order, Result]):
    """A kind whose subject is a row with the states of its job.

    Attributes:
        model: the row's class.
        queued, running: the states in which it waits; the same where starting is no state.
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
        """Makes the order, as `order` says."""

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
        """Raises what stands in the way of another attempt; takes the locks that come before the row's."""

    def again(self, uow: UnitOfWork, principal: Principal, row: BackedRow) -> str:
        """Starts the next attempt of a locked row; returns its job."""
        row.state = move(self.noun, row.state, self.queued)
        row.attempt, row.problem, row.finished_at = row.attempt + 1, None, None
        row.row_version += 1
        return self.begin(uow, principal, row)

    def begin(self, uow: UnitOfWork, principal: Principal, row: BackedRow) -> str:
        """Starts the current attempt of a row that is queued; returns its job."""
        self.tell_queued(uow, principal, row)
        return self.enqueue(uow, row)

    def tell_queued(self, uow: UnitOfWork, principal: Principal, row: BackedRow) -> None:
        """Records that an attempt was asked for, and by whom."""

    def unfinished(self, session: Session) -> Sequence[tuple[str, str]]:
        return job_backed.in_states(session, self.model, {self.queued, self.running})


Kinds = Mapping[str, JobKind[Any, Any, Any]]


def kinds_of(uow: UnitOfWork) -> Kinds:
    """Returns the registered kinds by name."""
    return cast(Kinds, uow.tools.kinds)
