"""Counters of rate limits, shared by all replicas in one small PostgreSQL table.

Windows are fixed, so that a hit is one statement on one row and a replica can count many requests in advance (a lease, see
`app.services.access.rate_limits`).
"""

import datetime as dt
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Engine, String, delete, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, clock
from app.db.errors import translated


class RateWindow(Base):
    """How often something was asked for in its present window. Not logged on PostgreSQL: after a crash windows begin anew."""

    __tablename__ = "rate_windows"

    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    hits: Mapped[int] = mapped_column(BigInteger)
    ends_at: Mapped[dt.datetime]


class Window(NamedTuple):
    """Hits so far in a window, those just counted included, and seconds until it ends."""

    hits: int
    seconds: float


# `now()` is when the transaction began, one moment for the whole statement, also where it waited for another hit: what is
# left of the window is never overestimated by whoever takes his own time before he asks.
_HIT = text(
    "INSERT INTO rate_windows AS w (key, hits, ends_at) VALUES (:key, :amount, now() + make_interval(secs => :seconds))"
    " ON CONFLICT (key) DO UPDATE SET"
    " hits = CASE WHEN w.ends_at <= now() THEN excluded.hits ELSE w.hits + excluded.hits END,"
    " ends_at = CASE WHEN w.ends_at <= now() THEN excluded.ends_at ELSE w.ends_at END"
    " RETURNING hits, EXTRACT(EPOCH FROM ends_at - now())::float8"
)


class SharedCounters:
    """Counters in the database, by its clock.

    Args:
        engine: on PostgreSQL, with connections of its own (`app.db.engine.counter_engine`): whoever asks may hold one of the
            others already, and all who hold one and wait for a second would wait for each other.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def hit(self, key: str, seconds: int, amount: int = 1) -> Window:
        """Counts in the present window of a key, or begins one of `seconds`.

        Raises:
            DomainError: database.unreachable, database.busy.
        """
        with translated(), self._engine.connect() as connection:
            hits, left = connection.execute(_HIT, {"key": key, "amount": amount, "seconds": seconds}).one()
            return Window(hits, left)


def forget_ended(session: Session) -> int:
    """Removes windows that are over; how many that were."""
    removed: Any = session.execute(delete(RateWindow).where(RateWindow.ends_at <= clock(session)))
    return int(removed.rowcount)
