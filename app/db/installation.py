"""Named facts about the whole installation, which one process writes and others read."""

import datetime as dt
from typing import Any

from sqlalchemy import Engine, String, insert, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, clock, now
from app.db.engine import BUSY_TIMEOUT_MS
from app.db.errors import translated
from app.domain.errors import DomainError

# A row that is rewritten repeatedly to check that the database accepts writes.
WRITE_CHECK = "write-check"
# How long the check waits for another writer's lock on SQLite, in milliseconds.
CHECK_WAIT_MS = 500


class InstallationFact(Base):
    """One fact; `value` is a JSON object."""

    __tablename__ = "installation"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[dict[str, Any]]
    written_at: Mapped[dt.datetime]


def read(session: Session, name: str) -> dict[str, Any] | None:
    """Returns a fact; None if it was never written."""
    found = session.get(InstallationFact, name)
    return None if found is None else found.value


def write(session: Session, name: str, value: dict[str, Any]) -> None:
    """Inserts or replaces a fact."""
    session.merge(InstallationFact(name=name, value=value, written_at=clock(session)))
    session.flush()


def check_writable(engine: Engine) -> None:
    """Commits a small write, which fails on a full disk or a read-only database.

    A database that is locked by another writer counts as writable.

    Raises:
        DomainError: server.storage_full, database.unreachable.
        SQLAlchemyError: the write failed for another reason.
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
