"""The database: mapped classes and queries, one module for each noun.

May import: SQLAlchemy, `app.domain`, `app.core` for plain values. Promises: functions take a session and never commit;
relationships are never loaded lazily; lists are paged by key (keyset pagination).
"""
