"""Indexes on tables that are in use: made beside whoever writes to them."""

from alembic import op


def create(name: str, table: str, columns: list[str]) -> None:
    """Makes an index; on PostgreSQL without keeping anybody from writing, outside of a transaction.

    One that broke off leaves an index there that is not valid: it is dropped first.
    """
    if op.get_context().dialect.name != "postgresql":
        op.create_index(name, table, columns)
        return
    with op.get_context().autocommit_block():
        op.drop_index(name, table, postgresql_concurrently=True, if_exists=True)
        op.create_index(name, table, columns, postgresql_concurrently=True)
