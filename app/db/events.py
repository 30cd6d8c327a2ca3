"""Events: what happened, in the transaction of the fact; append-only, which triggers of the database hold."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Index, Integer, String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base
from app.db.families import Family, visible_to
from app.db.locks import EVENTS, take_turn


class Event(Base):
    """One thing that happened; `id` grows in the order in which transactions become visible, and is the cursor."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_owner_id", "owner", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)
    at: Mapped[dt.datetime]
    kind: Mapped[str] = mapped_column(String(60))
    owner: Mapped[str] = mapped_column(String(64), index=True)
    subject: Mapped[str] = mapped_column(String(200))
    actor: Mapped[str] = mapped_column(String(64))
    data: Mapped[dict[str, Any]]
    family: Mapped[str | None] = mapped_column(String(64))  # which it is about, where it is the installation's
    # For the audit trail; unknown of what happened before there was one.
    token: Mapped[str | None] = mapped_column(String(200))
    address: Mapped[str | None] = mapped_column(String(64))
    request: Mapped[str | None] = mapped_column(String(64))


def append(session: Session, events: Sequence[Event]) -> None:
    """Writes events as the last thing before the commit.

    PostgreSQL gives numbers out when a row is written, not when it becomes visible: a transaction that commits late would
    put its events behind a reader's cursor, where nobody ever looks again. So only one transaction at a time is between
    its numbers and its commit.
    """
    take_turn(session, EVENTS)
    session.add_all(events)
    session.flush()


def after(session: Session, cursor: int, owner: str | None, limit: int, with_families: bool = True) -> Sequence[Event]:
    """Events later than the cursor, oldest first.

    Args:
        owner: whose only, and of the families that it may see; None for all events.
        with_families: False to leave those of families out.
    """
    query = select(Event).where(Event.id > cursor).order_by(Event.id).limit(limit)
    if owner is not None:
        wanted = Event.owner == owner
        if with_families:
            wanted |= Event.family.in_(select(Family.name).where(Family.id.in_(visible_to(owner))))
        query = query.where(wanted)
    return session.scalars(query).all()


def last(session: Session) -> int:
    """The id of the last event, or 0."""
    return session.scalar(select(func.max(Event.id))) or 0


def told_of(session: Session, kind: str, jobs: Sequence[str]) -> set[str]:
    """Those of these jobs about which there is an event of a kind; an event about a job is its owner's."""
    owners = sorted({job.partition(":")[0] for job in jobs})
    found = set[str]()
    for start in range(0, len(jobs), 500):
        query = select(Event.subject).where(Event.owner.in_(owners), Event.kind == kind)
        found.update(session.scalars(query.where(Event.subject.in_(jobs[start : start + 500]))))
    return found
