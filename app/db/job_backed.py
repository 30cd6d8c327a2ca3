"""Base class of rows whose state is advanced by jobs."""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from sqlalchemy import String, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Identified, Versioned


class JobBacked(Identified, Versioned):
    """A row whose state is advanced by jobs. The job id contains the attempt, so that enqueuing an attempt is idempotent.

    Attributes:
        JOB: the name of the kind of job.
        attempt: the number of the current attempt; each attempt is a job of its own.
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
    """Returns the id of the job of one attempt. The engine's rows and indexes depend on its format."""
    return f"{owner}:{kind}:{subject}-{attempt}"


def in_states(session: Session, model: type[JobBacked], states: Collection[str]) -> Sequence[tuple[str, str]]:
    """Returns (job, id) of every row in one of the states, the oldest first."""
    query = select(model.owner, model.id, model.attempt).where(model.state.in_(states)).order_by(model.id)
    return [(job_id(owner, model.JOB, ident, attempt), ident) for owner, ident, attempt in session.execute(query)]
