"""Workers: who runs jobs, and when each last said that it lives."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import BigInteger, CursorResult, String, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, clock


class Worker(Base):
    """One worker process.

    Attributes:
        id: the job engine's executor id; unique for every process that ever ran.
        class_name: the queue that it takes jobs from: cpu, gpu24, gpu80, ...
        url: where its own endpoints are, or None when it has none.
        device: what it computes on, "cpu" or the name of an accelerator.
        labels: free text by name, for people.
        seen_at: its last sign of life, by the database's clock.
    """

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    class_name: Mapped[str] = mapped_column(String(40), index=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(String(40))
    url: Mapped[str | None] = mapped_column(String(500))
    device: Mapped[str] = mapped_column(String(200))
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    labels: Mapped[dict[str, Any]]
    started_at: Mapped[dt.datetime]
    seen_at: Mapped[dt.datetime] = mapped_column(index=True)


def beat(session: Session, worker: Worker) -> None:
    """Says that a worker lives, as a new row where it has none (any more)."""
    present = clock(session)
    result = session.execute(update(Worker).where(Worker.id == worker.id).values(seen_at=present))
    if cast(CursorResult[Any], result).rowcount == 0:
        worker.started_at = worker.seen_at = present
        session.merge(worker)
        session.flush()


def leave(session: Session, worker: str) -> None:
    """Forgets a worker: whoever looks next gives its jobs to others."""
    session.execute(delete(Worker).where(Worker.id == worker))


def forget(session: Session, unseen: dt.timedelta) -> None:
    """Forgets workers that were not seen for long."""
    session.execute(delete(Worker).where(Worker.seen_at < clock(session) - unseen))


def everyone(session: Session) -> Sequence[Worker]:
    """All workers that have a row, the longest running first."""
    return session.scalars(select(Worker).order_by(Worker.started_at, Worker.id)).all()
