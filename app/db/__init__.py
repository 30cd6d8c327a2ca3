"""The database: one file per noun, its mapped class and its queries together.

May import: SQLAlchemy, `app.domain`, `app.core` for plain values. Promises: functions take a session and never commit;
nothing is loaded lazily; what is listed is paged by key.
"""
