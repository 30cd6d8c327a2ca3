"""Identity tokens that were exchanged: remembered until they cannot be valid any more, so that each is exchanged once."""

import datetime as dt
from typing import Any

from sqlalchemy import String, delete
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, clock

# Replicas judge a token's end by their own clocks, this table by the database's: what is over is kept for so long yet.
APART = dt.timedelta(hours=1)


class UsedIdentity(Base):
    """An identity token that was exchanged.

    Attributes:
        mark: what it is known by, see `app.domain.issuers.Identity`.
        used_at: when it was exchanged first, by the database's clock.
        address: whose request that was.
        ends_at: when it has expired for everybody.
    """

    __tablename__ = "used_identities"

    mark: Mapped[str] = mapped_column(String(64), primary_key=True)
    used_at: Mapped[dt.datetime]
    address: Mapped[str | None] = mapped_column(String(64))
    ends_at: Mapped[dt.datetime] = mapped_column(index=True)


def find(session: Session, mark: str) -> UsedIdentity | None:
    return session.get(UsedIdentity, mark)


def forget_ended(session: Session) -> int:
    """Forgets those that have expired; how many that were."""
    removed: Any = session.execute(delete(UsedIdentity).where(UsedIdentity.ends_at <= clock(session) - APART))
    return int(removed.rowcount)
