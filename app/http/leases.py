"""Renewal of leases that a request holds while it runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi.concurrency import run_in_threadpool

log = logging.getLogger("portllm.leases")


@asynccontextmanager
async def renewed(renew: Callable[[], None], seconds: float) -> AsyncIterator[None]:
    """Renews a lease every `seconds` while the block runs. If a renewal fails, it is logged and retried after the same time."""
    task = asyncio.create_task(_renew(renew, seconds))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _renew(renew: Callable[[], None], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await run_in_threadpool(renew)
        except Exception as error:  # noqa: BLE001  the request continues; its end checks whether it still holds the lease
            log.warning("a lease could not be renewed: %s", error)
