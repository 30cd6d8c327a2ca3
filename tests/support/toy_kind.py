"""A kind of job that the registry does not know: all that a new kind needs, in one module."""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import DeclarativeBase, Mapped, Session

from app.db.base import Base
from app.db.job_backed import JobBacked
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.states import MOVES
from app.jobs.tasks.context import TaskContext
from app.services.jobs.kinds import Done, RowKind
from app.services.unit_of_work import UnitOfWork

MOVES["toy"] = {
    "queued": frozenset({"running", "failed", "cancelled"}), "running": frozenset({"done", "failed", "cancelled"}),
    "failed": frozenset({"queued"}), "cancelled": frozenset({"queued"}), "done": frozenset(),
}  # fmt: skip


class ToyBase(DeclarativeBase):
    """Tables beside those of the registry."""

    type_annotation_map = Base.type_annotation_map


class Toy(JobBacked, ToyBase):
    """A number to double; `fate` says what becomes of its first attempt: "works", "fails", "breaks" or "waits"."""

    __tablename__ = "toys"
    JOB = "toy"

    fate: Mapped[str]
    number: Mapped[int]
    answer: Mapped[int | None]


@dataclass(frozen=True)
class ToyOrder:
    """Double a number."""

    number: int
    fate: str


@dataclass(frozen=True)
class ToyResult:
    """The number, doubled."""

    answer: int


def run(order: ToyOrder, context: TaskContext) -> ToyResult:
    """The task."""
    context.start_report(1, "Doubling")(1)
    if order.fate == "fails":
        raise DomainError("upload.digest", path="toy", actual="x", expected="y")
    if order.fate == "breaks":
        raise ZeroDivisionError
    if order.fate == "waits":
        time.sleep(600)
    return ToyResult(2 * order.number)


class ToyKind(RowKind[Toy, ToyOrder, ToyResult]):
    """Doubles numbers."""

    name, noun, model, task, result = "toy", "toy", Toy, __name__, ToyResult

    def find(self, session: Session, subject: str) -> Toy | None:
        return session.get(Toy, subject)

    def make_order(self, uow: UnitOfWork, row: Toy) -> ToyOrder:  # noqa: ARG002
        return ToyOrder(row.number, row.fate if row.attempt == 1 else "works")

    def record(self, uow: UnitOfWork, row: Toy, done: Done[ToyOrder, ToyResult]) -> None:
        row.answer = done.result.answer
        self.finish(uow, row, "done")

    def tell_failed(self, uow: UnitOfWork, row: Toy, worker: Principal, problem: dict[str, Any]) -> None:
        """Its job says it."""


TOY = ToyKind()
