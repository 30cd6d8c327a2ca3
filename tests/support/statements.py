"""Engines of one test process share the statements that SQLAlchemy has compiled.

A service has one engine and compiles each statement once. Here hundreds of registries start in one process, each with an engine
of its own, and what is compiled belongs to an engine and its dialect: a fifth of the time went into compiling the same again.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Engine
from sqlalchemy.engine import Dialect
from sqlalchemy.util import LRUCache

from app.db import engine as engines

COMPILED: LRUCache[Any, Any] = LRUCache(5000)
_dialects: dict[str, Dialect] = {}


def share() -> None:
    """From now on, for all engines that the application makes."""
    engines.create_engine = _sharing(engines.create_engine)


def _sharing(create: Callable[..., Engine]) -> Callable[..., Engine]:
    def create_engine(url: str | URL, **options: Any) -> Engine:
        engine = create(url, **options)
        # The dialect is a part of each statement's key; it knows nothing of a database but what all of one kind have in common.
        engine.dialect = _dialects.setdefault(f"{engine.url.drivername} {options.get('isolation_level')}", engine.dialect)
        engine.update_execution_options(compiled_cache=COMPILED)
        return engine

    return create_engine
