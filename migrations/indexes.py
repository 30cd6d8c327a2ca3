"""Indexes on tables that are in use: made beside whoever writes to them."""

from alembic import op
from sqlalchemy import text


def create(name: str, table: str, columns: list[str], where: str | None = None, unique: bool = False) -> None:
    """Makes an index; on PostgreSQL without keeping anybody from writing, outside of a transaction.

    An interrupted attempt leaves an invalid index behind, which is dropped first; a valid one of an attempt that failed later is
    kept. On PostgreSQL this commits the migration's earlier changes, so it must come before everything that cannot be repeated.

    Args:
        where: The condition of a partial index.
        unique: Whether it is a unique index; only over columns that hold no duplicates whatever a version writes.
    """
    condition = None if where is None else text(where)
    if op.get_context().dialect.name != "postgresql":
        op.create_index(name, table, columns, unique=unique, sqlite_where=condition)
        return
    if op.get_bind().scalar(text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)"), {"name": name}):
        return
    with op.get_context().autocommit_block():
        op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
        op.create_index(name, table, columns, unique=unique, postgresql_concurrently=True, postgresql_where=condition)
