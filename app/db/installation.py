"""Facts about the whole installation that one process writes and others read, by name."""

import datetime as dt
from typing import Any

from sqlalchemy import Engine, String, insert, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, clock, now
from app.db.engine import BUSY_TIMEOUT_MS
from app.db.failures import translated
from app.domain.errors import DomainError

# Written again and again to see whether the database accepts writes.
WRITE_CHECK = "write-check"
# How long the check waits for another's write on SQLite, in milliseconds.
CHECK_WAIT_MS = 500


class InstallationFact(Base):
    """One fact; `value` is a JSON object."""

    __tablename__ = "installation"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[dict[str, Any]]
    written_at: Mapped[dt.datetime]


def read(session: Session, name: str) -> dict[str, Any] | None:
    """A fact; None where nobody wrote it yet."""
    found = session.get(InstallationFact, name)
    return None if found is None else found.value


def write(session: Session, name: str, value: dict[str, Any]) -> None:
    """Writes a fact, or writes it anew."""
    session.merge(InstallationFact(name=name, value=value, written_at=clock(session)))
    session.flush()


def check_writable(engine: Engine) -> None:
    """Commits a write, which a full disk or a read-only database refuses. A database that others write to is writable.

    Raises:
        DomainError: server.storage_full, database.unreachable.
        SQLAlchemyError: another refusal.
    """
    is_sqlite = engine.dialect.name == "sqlite"
    try:
        with translated(), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            if is_sqlite:
                connection.exec_driver_sql(f"PRAGMA busy_timeout={CHECK_WAIT_MS}")
            try:
                fact = {"value": {}, "written_at": now()}
                changed = connection.execute(update(InstallationFact).where(InstallationFact.name == WRITE_CHECK).values(fact))
                if not changed.rowcount:
                    connection.execute(insert(InstallationFact).values(name=WRITE_CHECK, **fact))
            finally:
                if is_sqlite:
                    connection.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    except DomainError as error:
        if error.code not in ("database.busy", "database.collision"):
            raise
