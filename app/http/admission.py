"""Waits on the event loop for a slot of `app.services.read_slots`, so that waiting requests need no thread."""

import asyncio
from functools import partial

from fastapi.concurrency import run_in_threadpool

from app.services.read_slots import NoSlotError, ReadSlot

# How often the first waiter in the queue checks whether the slot of an idle read has become reclaimable.
RECLAIM_SECONDS = 0.25


async def wait_for_slot(refusal: NoSlotError, seconds: float) -> ReadSlot:
    """Waits in the queue for the slot that was refused, and returns it.

    Raises:
        NoSlotError: `refusal`, if no slot became free within `seconds`.
    """
    loop, slots = asyncio.get_running_loop(), refusal.slots
    granted: asyncio.Future[ReadSlot] = loop.create_future()
    waiter = slots.wait(refusal.owner, lambda slot: _tell(loop, granted, slot))
    deadline = loop.time() + seconds
    try:
        while not granted.done():
            left = deadline - loop.time()
            if left <= 0:
                raise refusal
            if slots.is_first(waiter):
                await run_in_threadpool(slots.reclaim)
            await asyncio.wait([granted], timeout=min(left, RECLAIM_SECONDS))
        return granted.result()
    except BaseException:
        slots.leave(waiter)
        if not granted.cancel():  # the slot was granted at the last moment
            give_back(granted.result())
        raise


def give_back(slot: ReadSlot) -> None:
    """Releases a slot in a thread, because this may call waiting reads and drop the buffers of idle ones."""
    asyncio.get_running_loop().run_in_executor(None, slot.release)


def _tell(loop: asyncio.AbstractEventLoop, granted: "asyncio.Future[ReadSlot]", slot: ReadSlot) -> None:
    """Passes a granted slot to the event loop; called from any thread."""
    try:
        loop.call_soon_threadsafe(partial(_accept, granted, slot))
    except RuntimeError:  # the loop has ended
        slot.release()


def _accept(granted: "asyncio.Future[ReadSlot]", slot: ReadSlot) -> None:
    if granted.cancelled():
        give_back(slot)
    else:
        granted.set_result(slot)
