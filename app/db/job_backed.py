"""Columns of rows that a job advances."""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from sqlalchemy import String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Identified, Versioned


class JobBacked(Identified, Versioned):
    """A row that a job advances; it names the job by its attempt, so that a repeated order is the same job.

    Attributes:
        JOB: the name of the kind of job.
        attempt: how many times the row was given to a job.
        problem: why the last attempt failed.
        finished_at: when the last attempt ended.
    """

    JOB: ClassVar[str]

    owner: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(20), index=True)
    attempt: Mapped[int] = mapped_column(default=1)
    problem: Mapped[dict[str, Any] | None]
    finished_at: Mapped[dt.datetime | None]

    @property
    def job(self) -> str:
        """The id of the job of the current attempt."""
        return job_id(self.owner, self.JOB, self.id, self.attempt)


def job_id(owner: str, kind: str, subject: str, attempt: int) -> str:
    """Returns the id of one attempt at a subject; the engine's rows and indexes depend on this form."""
    return f"{owner}:{kind}:{subject}-{attempt}"


def in_states(session: Session, model: type[JobBacked], states: Collection[str]) -> Sequence[tuple[str, str]]:
    """Returns (job, id) of every row in some states, the oldest first."""
    query = select(model.owner, model.id, model.attempt).where(model.state.in_(states)).order_by(model.id)
    return [(job_id(owner, model.JOB, ident, attempt), ident) for owner, ident, attempt in session.execute(query)]
