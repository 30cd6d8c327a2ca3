"""Counters of rate limits that all replicas share: `limits.storage.Storage` over one small table of PostgreSQL.

The library stores in memory, Redis, Memcached and MongoDB, none of which PortLLM needs otherwise. Windows are fixed, because
then a hit is one statement on one row, and a replica can count a lease of many requests at once (`app.services.rates`).
"""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from limits.storage import Storage
from sqlalchemy import BigInteger, Connection, Engine, String, delete, func, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, clock
from app.db.failures import translated
from app.domain.errors import DomainError


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


class SharedCounters(Storage):
    """Counters in the database, by its clock.

    Args:
        engine: on PostgreSQL, with connections of its own (`app.db.engine.counter_engine`): whoever asks may hold one of the
            others already, and all who hold one and wait for a second would wait for each other.
    """

    STORAGE_SCHEME: list[str] | None = None  # made here, never found by an address

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """What the library may wrap: what the database answers, as the rest of the house says it."""
        return DomainError

    def hit(self, key: str, seconds: int, amount: int = 1) -> Window:
        """Counts in the present window of a key, or begins one of `seconds`.

        Raises:
            DomainError: database.unreachable, database.busy.
        """
        with self._connection() as connection:
            hits, left = connection.execute(_HIT, {"key": key, "amount": amount, "seconds": seconds}).one()
            return Window(hits, left)

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """Hits in the window, after this one."""
        return self.hit(key, int(expiry), amount).hits

    def get(self, key: str) -> int:
        """Hits in the present window."""
        with self._connection() as connection:
            query = select(RateWindow.hits).where(RateWindow.key == key, RateWindow.ends_at > func.now())
            return connection.scalar(query) or 0

    def get_expiry(self, key: str) -> float:
        """When the window ends, or ended, in seconds since 1970 by the database's clock; its present for a key without one."""
        with self._connection() as connection:
            ends = select(RateWindow.ends_at).where(RateWindow.key == key).scalar_subquery()
            moment = connection.scalar(select(func.extract("epoch", func.coalesce(ends, func.now()))))
            return float(moment or 0)

    def check(self) -> bool:
        """Whether the database answers."""
        try:
            with self._connection() as connection:
                return connection.scalar(select(1)) == 1
        except DomainError:
            return False

    def reset(self) -> int | None:
        """Forgets all windows; how many that were."""
        with self._connection() as connection:
            return connection.execute(delete(RateWindow)).rowcount

    def clear(self, key: str) -> None:
        """Forgets the window of a key."""
        with self._connection() as connection:
            connection.execute(delete(RateWindow).where(RateWindow.key == key))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with translated(), self._engine.connect() as connection:
            yield connection


def forget_ended(session: Session) -> int:
    """Removes windows that are over; how many that were."""
    removed: Any = session.execute(delete(RateWindow).where(RateWindow.ends_at <= clock(session)))
    return int(removed.rowcount)
