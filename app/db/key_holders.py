"""Key holders: which key each process signs with and which keys it accepts. Only names of keys are stored, never the keys."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import CursorResult, String, delete, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, clock


class KeyHolder(Base):
    """One process of the installation.

    Attributes:
        id: unique for every process that ever ran.
        role: "service" or "worker".
        signs: the name of the key that it signs with.
        accepts: the names of all keys whose signatures it accepts, including `signs`.
        seen_at: its last heartbeat, by the database's clock.
    """

    __tablename__ = "key_holders"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    role: Mapped[str] = mapped_column(String(20))
    signs: Mapped[str] = mapped_column(String(16))
    accepts: Mapped[list[Any]]
    started_at: Mapped[dt.datetime]
    seen_at: Mapped[dt.datetime]


def beat(session: Session, holder: KeyHolder) -> None:
    """Renews a process's heartbeat; inserts its row if there is none."""
    present = clock(session)
    result = session.execute(update(KeyHolder).where(KeyHolder.id == holder.id).values(seen_at=present))
    if cast(CursorResult[Any], result).rowcount == 0:
        holder.started_at = holder.seen_at = present
        session.merge(holder)
        session.flush()


def remove(session: Session, holder: str) -> None:
    """Removes the row of a process that is stopping."""
    session.execute(delete(KeyHolder).where(KeyHolder.id == holder))


def forget(session: Session, unseen: dt.timedelta) -> None:
    """Removes the rows of processes whose last heartbeat is older than `unseen`."""
    session.execute(delete(KeyHolder).where(KeyHolder.seen_at < clock(session) - unseen))


def live(session: Session, ttl: float) -> Sequence[KeyHolder]:
    """Returns the processes whose last heartbeat is at most `ttl` seconds old, the longest running first."""
    since = clock(session) - dt.timedelta(seconds=ttl)
    return session.scalars(select(KeyHolder).where(KeyHolder.seen_at >= since).order_by(KeyHolder.started_at, KeyHolder.id)).all()
