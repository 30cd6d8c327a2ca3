"""What all mapped classes share: naming of constraints, column types, keyset paging."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import JSON, CheckConstraint, DateTime, MetaData, Select, String, TypeDecorator, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from app.domain.states import MOVES

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[dt.datetime]):
    """A point in time, always aware and in UTC; SQLite keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Any) -> dt.datetime | None:
        return value.astimezone(dt.UTC).replace(tzinfo=None if dialect.name == "sqlite" else dt.UTC) if value else None

    def process_result_value(self, value: dt.datetime | None, dialect: Any) -> dt.datetime | None:  # noqa: ARG002
        return (value if value.tzinfo else value.replace(tzinfo=dt.UTC)) if value else None


class Base(DeclarativeBase):
    """Root of the mapped classes."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {dt.datetime: UtcDateTime, dict[str, Any]: JSON, list[Any]: JSON, str: String}  # noqa: RUF012

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'id', '?')}>"


class Identified:
    """A row with an identifier of ours, made when it was created."""

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    created_at: Mapped[dt.datetime]


class Versioned:
    """A row that can change: `row_version` goes up with every change and is its ETag."""

    row_version: Mapped[int] = mapped_column(default=1)


def state_constraint(noun: str) -> CheckConstraint:
    """Returns a CHECK constraint that allows only the states that `MOVES` lists for a noun. A new state needs a migration."""
    return CheckConstraint(f"state IN ({', '.join(map(repr, sorted(MOVES[noun])))})", name="state")


def now() -> dt.datetime:
    """The present, aware, in UTC."""
    return dt.datetime.now(dt.UTC)


def is_embedded(session: Session) -> bool:
    """Returns whether this is SQLite, which only one service uses."""
    return session.get_bind().dialect.name == "sqlite"


def clock(session: Session) -> dt.datetime:
    """The present by the database's clock, the only one that all machines share: for what one writes and another judges."""
    if is_embedded(session):
        return now()  # the same machine; its own function knows whole seconds only
    present: dt.datetime | None = session.scalar(select(func.now(type_=UtcDateTime())))
    assert present is not None  # noqa: S101  every database knows the time
    return present


Row = TypeVar("Row", bound=Identified)


def page(session: Session, query: Select[Row], model: type[Row], after: str | None, limit: int) -> Sequence[Row]:
    """One page, newest first: rows with an id below `after`, one more than `limit` to tell whether there are others."""
    if after:
        query = query.where(model.id < after)
    return session.scalars(query.order_by(model.id.desc()).limit(limit + 1)).unique().all()
