"""One Alembic chain for SQLite and PostgreSQL.

Every migration only adds to the schema of the release before, which goes on working meanwhile: `app.db.schema` has the rules.
"""
