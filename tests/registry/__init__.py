"""The registry in one process, of real parts: SQLite migrated by Alembic, local blobs, the ASGI app."""
