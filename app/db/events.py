"""Events: a log of what happened, written in the same transaction as the change. Triggers keep the table append-only."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, BindParameter, Index, Integer, String, bindparam, func, or_, select, text, union_all
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base
from app.db.families import EVERYBODY, Family, FamilyGrant
from app.db.locks import EVENTS, advisory_lock
from app.domain.events.families import FamilyGranted, FamilyWithdrawn

# Events about grants on a family. An event about a single owner belongs to that owner. Older ones belong to the family and carry
# the owner's name in their data; they cannot be changed, because the table is append-only.
GRANTS = (FamilyGranted.spec.kind, FamilyWithdrawn.spec.kind)
_OF_FAMILIES = text("family IS NOT NULL")


class Event(Base):
    """One thing that happened; `id` grows in the order in which transactions become visible, and is the cursor."""

    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_owner_id", "owner", "id"),
        Index("ix_events_kind_subject", "kind", "subject"),
        Index("ix_events_family", "id", "family", sqlite_where=_OF_FAMILIES, postgresql_where=_OF_FAMILIES),
        {"sqlite_autoincrement": True},
    )

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


# Built once, because the statements are complex and every page and stream uses them.
_READER: BindParameter[str] = bindparam("reader")
_AFTER = Event.id > bindparam("cursor")
_LIMIT: BindParameter[int] = bindparam("limit")
_READABLE = select(Family.name).join(FamilyGrant).where(FamilyGrant.owner.in_((_READER, EVERYBODY)))
_IDS = select(Event.id).where(_AFTER).order_by(Event.id).limit(_LIMIT)
_OWN_IDS = _IDS.where(Event.owner == _READER).subquery()
_FAMILY_IDS = _IDS.where(
    Event.family.is_not(None),
    Event.family.in_(_READABLE),
    or_(Event.kind.not_in(GRANTS), Event.data["to"].as_string() == EVERYBODY),
).subquery()
_ORDERED = select(Event).order_by(Event.id).limit(_LIMIT)
_ALL = _ORDERED.where(_AFTER)
_OWN = _ALL.where(Event.owner == _READER)
# A union: each part reads one index in order and stops at the limit. With OR instead, neither index could be used.
_VISIBLE = _ORDERED.where(Event.id.in_(union_all(select(_OWN_IDS.c.id), select(_FAMILY_IDS.c.id))))


def append(session: Session, events: Sequence[Event]) -> None:
    """Writes events as the last thing before the commit.

    PostgreSQL gives numbers out when a row is written, not when it becomes visible: a transaction that commits late would
    put its events behind a reader's cursor, where nobody ever looks again. So only one transaction at a time is between
    its numbers and its commit.
    """
    advisory_lock(session, EVENTS)
    session.add_all(events)
    session.flush()


def after(session: Session, cursor: int, owner: str | None, limit: int, with_families: bool = True) -> Sequence[Event]:
    """Returns the events after a cursor, oldest first.

    Args:
        owner: Return only this owner's events and those of the families that it may see; None for all events.
        with_families: False to exclude the events of families.
    """
    query = _ALL if owner is None else _VISIBLE if with_families else _OWN
    values = {"cursor": cursor, "limit": limit} | ({} if owner is None else {"reader": owner})
    return session.scalars(query, values).all()


def is_for_readers(event: Event) -> bool:
    """Returns whether every reader of the event's family may see the event; the same rule as in `_FAMILY_IDS`."""
    return event.family is not None and (event.kind not in GRANTS or event.data.get("to") == EVERYBODY)


def last(session: Session) -> int:
    """The id of the last event, or 0."""
    return session.scalar(select(func.max(Event.id))) or 0


def newest(session: Session) -> Event | None:
    """Returns the last event."""
    return session.scalar(select(Event).where(Event.id == select(func.max(Event.id)).scalar_subquery()))


def with_event(session: Session, kind: str, jobs: Sequence[str]) -> set[str]:
    """Returns those of the given jobs that have an event of a kind; an event about a job belongs to the job's owner."""
    owners = sorted({job.partition(":")[0] for job in jobs})
    found = set[str]()
    for start in range(0, len(jobs), 500):
        query = select(Event.subject).where(Event.owner.in_(owners), Event.kind == kind)
        found.update(session.scalars(query.where(Event.subject.in_(jobs[start : start + 500]))))
    return found
