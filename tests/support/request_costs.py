"""Counts what a request costs: database transactions, and hops from the event loop to a worker thread."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from sqlalchemy import event

from app.runtime import Runtime
from tests.support.connections import REQUESTS


@dataclass
class Costs:
    """How many transactions requests began, and how many calls they ran in a worker thread."""

    transactions: int = 0
    hops: int = 0


@contextmanager
def counted(runtime: Runtime) -> Iterator[Costs]:
    """Counts for the requests that are made within the block; what background threads do is not counted."""
    costs, run_sync = Costs(), to_thread.run_sync

    def take_connection(*_: Any) -> None:  # once for each transaction
        if threading.current_thread().name.startswith(REQUESTS):
            costs.transactions += 1

    async def hop(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        costs.hops += 1
        return await run_sync(work, *arguments, **options)

    with runtime.read() as uow:
        pool = uow.session.get_bind().engine.pool
    event.listen(pool, "checkout", take_connection)
    to_thread.run_sync = hop
    try:
        yield costs
    finally:
        to_thread.run_sync = run_sync
        event.remove(pool, "checkout", take_connection)
