"""Admission control for long-running work of requests: publishes, and look-ups at other hubs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import TypeVar, cast

from fastapi import Request

from app.http.request_slots import bounded
from app.http.slots import Slots
from app.services.background import in_thread

PATIENCE_SECONDS = 8.0  # clients of the Hub wait ten seconds for a first byte
LOOK_UPS, LOOK_UPS_OF_ONE = 8, 2
Value = TypeVar("Value")


class LongWork:
    """The slots of one application for long-running work.

    Args:
        publishes: how many drafts and pushes may be verified concurrently.
        publishes_of_one: how many of them may belong to one owner.
    """

    def __init__(self, publishes: int, publishes_of_one: int) -> None:
        self.publishes = Slots(publishes_of_one, publishes)
        self.look_ups = Slots(LOOK_UPS_OF_ONE, LOOK_UPS)


@asynccontextmanager
async def publishing(request: Request, owner: str) -> AsyncIterator[None]:
    """Holds a slot for the verification of uploaded bytes, which reads every byte and occupies a thread and a lock meanwhile.

    Raises:
        DomainError: server.busy.
    """
    async with bounded(request, _of(request).publishes, owner, "publishes", PATIENCE_SECONDS) as own:
        await own.take()  # the verification runs in a worker thread
        yield


async def look_up(request: Request, owner: str, ask: Callable[[], Value]) -> Value:
    """Runs a look-up at another hub in a separate thread, so that a slow hub does not occupy a worker thread of other requests.

    Raises:
        DomainError: server.busy; whatever `ask` raises.
    """
    async with bounded(request, _of(request).look_ups, owner, "look-ups at other hubs", PATIENCE_SECONDS) as own:
        found = await asyncio.wrap_future(in_thread(partial(copy_context().run, ask)))
    await own.take()
    return found


def _of(request: Request) -> LongWork:
    return cast(LongWork, request.app.state.long_work)
