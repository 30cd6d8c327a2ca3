"""Events: what happened, append-only, in the transaction of the fact."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Integer, String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base
from app.db.locks import EVENTS, take_turn


class Event(Base):
    """One thing that happened; `id` grows in the order in which transactions become visible, and is the cursor."""

    __tablename__ = "events"
    __table_args__ = ({"sqlite_autoincrement": True},)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    at: Mapped[dt.datetime]
    kind: Mapped[str] = mapped_column(String(60))
    owner: Mapped[str] = mapped_column(String(64), index=True)
    subject: Mapped[str] = mapped_column(String(200))
    actor: Mapped[str] = mapped_column(String(64))
    data: Mapped[dict[str, Any]]


def append(session: Session, events: Sequence[Event]) -> None:
    """Writes events as the last thing before the commit.

    PostgreSQL gives numbers out when a row is written, not when it becomes visible: a transaction that commits late would
    put its events behind a reader's cursor, where nobody ever looks again. So only one transaction at a time is between
    its numbers and its commit.
    """
    take_turn(session, EVENTS)
    session.add_all(events)
    session.flush()


def after(session: Session, cursor: int, owners: Sequence[str] | None, limit: int) -> Sequence[Event]:
    """Events later than the cursor, oldest first; of some owners only, unless that is None."""
    query = select(Event).where(Event.id > cursor).order_by(Event.id).limit(limit)
    if owners is not None:
        query = query.where(Event.owner.in_(owners))
    return session.scalars(query).all()


def last(session: Session) -> int:
    """The id of the last event, or 0."""
    return session.scalar(select(func.max(Event.id))) or 0


def was_told(session: Session, owner: str, kind: str, subject: str) -> bool:
    """Whether there is an event of a kind about a subject."""
    query = select(Event.id).where(Event.owner == owner, Event.kind == kind, Event.subject == subject).limit(1)
    return session.scalar(query) is not None
