"""Constraints on tables that are in use: rows that break one are reported before anything is changed."""

from collections.abc import Sequence
from typing import NamedTuple

from alembic import op
from sqlalchemy import text

from app.domain.errors import DomainError

SHOWN = 20


class Check(NamedTuple):
    """A CHECK constraint.

    Attributes:
        meaning: what the rows must fulfil, as the report of rows that do not says it.
    """

    table: str
    name: str
    condition: str
    meaning: str

    def broken(self) -> str:
        return f"SELECT id FROM {self.table} WHERE NOT ({self.condition})"  # noqa: S608  names of this package


class Reference(NamedTuple):
    """A composite foreign key to columns that have a unique index."""

    table: str
    name: str
    columns: Sequence[str]
    referred: str
    referred_columns: Sequence[str]
    meaning: str

    def broken(self) -> str:
        matches = " AND ".join(f"r.{theirs} = t.{ours}" for ours, theirs in zip(self.columns, self.referred_columns, strict=True))
        others = f"SELECT 1 FROM {self.referred} r WHERE {matches}"  # noqa: S608  names of this package
        return f"SELECT t.id FROM {self.table} t WHERE NOT EXISTS ({others})"  # noqa: S608


def require_fulfilled(constraints: Sequence[Check | Reference]) -> None:
    """Reports every row that breaks a constraint.

    Raises:
        DomainError: database.rows, with the constraints and the ids of rows that break them.
    """
    reports = []
    for one in constraints:
        found = op.get_bind().scalars(text(f"{one.broken()} ORDER BY id LIMIT {SHOWN + 1}")).all()
        if found:
            more = " and more" if len(found) > SHOWN else ""
            reports.append(f"{one.table} {', '.join(found[:SHOWN])}{more} ({one.meaning})")
    if reports:
        raise DomainError("database.rows", rows="; ".join(reports))


def add(constraints: Sequence[Check | Reference]) -> None:
    """Adds constraints.

    On SQLite each table is written anew, in the migration's transaction. On PostgreSQL each constraint is added as NOT VALID,
    which locks the table for a moment only, and then validated while others read and write. This commits the migration's earlier
    changes; a repeated attempt goes on where the one before failed.
    """
    if op.get_context().dialect.name == "sqlite":
        for table in dict.fromkeys(one.table for one in constraints):
            with op.batch_alter_table(table) as batch:
                for one in (each for each in constraints if each.table == table):
                    if isinstance(one, Check):
                        batch.create_check_constraint(op.f(one.name), text(one.condition))
                    else:
                        batch.create_foreign_key(op.f(one.name), one.referred, list(one.columns), list(one.referred_columns))
        return
    valid = "SELECT convalidated FROM pg_constraint WHERE conrelid = to_regclass(:table) AND conname = :name"
    for one in constraints:
        is_valid = op.get_bind().scalar(text(valid), {"table": one.table, "name": one.name})
        with op.get_context().autocommit_block():
            if is_valid is None and isinstance(one, Check):
                op.create_check_constraint(op.f(one.name), one.table, text(one.condition), postgresql_not_valid=True)
            elif is_valid is None:
                op.create_foreign_key(
                    op.f(one.name), one.table, one.referred, list(one.columns), list(one.referred_columns),
                    postgresql_not_valid=True,
                )  # fmt: skip
            if not is_valid:
                op.execute(f"ALTER TABLE {one.table} VALIDATE CONSTRAINT {one.name}")


def drop(constraints: Sequence[Check | Reference]) -> None:
    """Drops constraints."""
    for table in dict.fromkeys(one.table for one in constraints):
        with op.batch_alter_table(table) as batch:
            for one in (each for each in constraints if each.table == table):
                batch.drop_constraint(op.f(one.name))
