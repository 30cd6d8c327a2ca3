"""Waits on the event loop for a place of `app.services.read_slots`, so that waiting requests need no thread."""

import asyncio
from functools import partial

from fastapi.concurrency import run_in_threadpool

from app.services.read_slots import NoSlotError, ReadSlot

# How often the first waiter in the queue checks whether the place of an idle read has become reclaimable.
RECLAIM_SECONDS = 0.25


async def place_in_turn(refusal: NoSlotError, seconds: float) -> ReadSlot:
    """Waits in the queue for the place that was refused, and returns it.

    Raises:
        NoPlaceError: `refusal`, if no place became free within `seconds`.
    """
    loop, places = asyncio.get_running_loop(), refusal.places
    granted: asyncio.Future[ReadSlot] = loop.create_future()
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
        if not granted.cancel():  # the place was granted at the last moment
            give_back(granted.result())
        raise


def give_back(place: ReadSlot) -> None:
    """Releases a place in a thread, because this may grant it to a waiting read and close the buffers of an idle one."""
    asyncio.get_running_loop().run_in_executor(None, place.release)


def _tell(loop: asyncio.AbstractEventLoop, granted: "asyncio.Future[ReadSlot]", place: ReadSlot) -> None:
    """Passes a granted place to the event loop; called from any thread."""
    try:
        loop.call_soon_threadsafe(partial(_accept, granted, place))
    except RuntimeError:  # the loop has ended
        place.release()


def _accept(granted: "asyncio.Future[ReadSlot]", place: ReadSlot) -> None:
    if granted.cancelled():
        give_back(place)
    else:
        granted.set_result(place)
