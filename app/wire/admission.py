"""Waiting for a place of `app.services.places` on the event loop, so that those who wait need no thread."""

import asyncio
from functools import partial

from fastapi.concurrency import run_in_threadpool

from app.services.places import NoPlaceError, Place

# How often the first in the queue looks whether a read that stands still has become reclaimable.
RECLAIM_SECONDS = 0.25


async def place_in_turn(refusal: NoPlaceError, seconds: float) -> Place:
    """The place that was refused, once its turn has come.

    Raises:
        NoPlaceError: `refusal`, where it did not come in time.
    """
    loop, places = asyncio.get_running_loop(), refusal.places
    granted: asyncio.Future[Place] = loop.create_future()
    waiter = places.wait(refusal.owner, lambda place: _tell(loop, granted, place))
    deadline = loop.time() + seconds
    try:
        while not granted.done():
            left = deadline - loop.time()
            if left <= 0:
                raise refusal
            if places.is_first(waiter):
                await run_in_threadpool(places.reclaim)
            await asyncio.wait([granted], timeout=min(left, RECLAIM_SECONDS))
        return granted.result()
    except BaseException:
        places.leave(waiter)
        if not granted.cancel():  # it came at the last moment
            give_back(granted.result())
        raise


def give_back(place: Place) -> None:
    """Gives a place back in a thread: the next read may get it, and what another one holds may be closed for that."""
    asyncio.get_running_loop().run_in_executor(None, place.release)


def _tell(loop: asyncio.AbstractEventLoop, granted: "asyncio.Future[Place]", place: Place) -> None:
    """Passes a place on to the event loop, from any thread."""
    try:
        loop.call_soon_threadsafe(partial(_accept, granted, place))
    except RuntimeError:  # the loop has ended
        place.release()


def _accept(granted: "asyncio.Future[Place]", place: Place) -> None:
    if granted.cancelled():
        give_back(place)
    else:
        granted.set_result(place)
