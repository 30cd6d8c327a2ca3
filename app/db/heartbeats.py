"""Heartbeats: rows that running processes renew. All times come from the database, whose clock all machines share."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from sqlalchemy import CursorResult, String, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import clock


class Heartbeat:
    """The row of one process.

    Attributes:
        id: unique for every process that ever ran.
        seen_at: its last heartbeat.
    """

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    started_at: Mapped[dt.datetime]
    seen_at: Mapped[dt.datetime]


Process = TypeVar("Process", bound=Heartbeat)


def beat(session: Session, process: Heartbeat, keep: dt.timedelta) -> None:
    """Inserts or renews the row of a process, and removes the rows of processes whose last heartbeat is older than `keep`."""
    model, present = type(process), clock(session)
    session.execute(delete(model).where(model.seen_at < present - keep))
    renewed = session.execute(update(model).where(model.id == process.id).values(seen_at=present))
    if cast(CursorResult[Any], renewed).rowcount == 0:
        process.started_at = process.seen_at = present
        session.merge(process)
        session.flush()


def remove(session: Session, model: type[Heartbeat], ident: str) -> None:
    """Removes the row of a process that stops."""
    session.execute(delete(model).where(model.id == ident))


def processes(session: Session, model: type[Process], ttl: float | None = None) -> Sequence[Process]:
    """Returns the processes that have a row, the longest-running first.

    Args:
        ttl: if given, only processes whose last heartbeat is at most this many seconds old.
    """
    query = select(model).order_by(model.started_at, model.id)
    if ttl is not None:
        query = query.where(model.seen_at >= clock(session) - dt.timedelta(seconds=ttl))
    return session.scalars(query).all()
