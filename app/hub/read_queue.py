"""Waiting for a slot to read a file.

A refused client retries at most five times, and some clients do not retry at all. Clients wait ten seconds for a first byte, so a
request waits here for nearly as long, first in, first out, and without a thread.
"""

import asyncio
from collections.abc import Callable

from fastapi import Response
from fastapi.concurrency import run_in_threadpool

from app.http.admission import give_back, wait_for_slot
from app.http.merged_response import FileResponse
from app.http.request_slots import release_current
from app.services.read_slots import NoSlotError, ReadSlot

PATIENCE_SECONDS = 8.0

Read = Callable[[ReadSlot | None], Response]


async def read_in_turn(read: Read) -> Response:
    """Runs a read in a thread. If it finds no slot, waits for one and runs the read again with it.

    Raises:
        DomainError: server.busy, if no slot became free in time; the errors of `read`.
    """
    try:
        return await run_in_threadpool(read, None)
    except NoSlotError as refusal:
        release_current()  # while it waits for a slot, other requests of the owner can use its slot
        slot = await wait_for_slot(refusal, PATIENCE_SECONDS)
    try:
        return await run_in_threadpool(_read_with, read, slot)
    except asyncio.CancelledError:  # possibly before a thread was started
        give_back(slot)
        raise


def _read_with(read: Read, slot: ReadSlot) -> Response:
    """Runs a read with a slot. If the answer reads a file, it takes over the slot; otherwise the slot is released."""
    try:
        answer = read(slot)
    except BaseException:
        slot.release()
        raise
    if not isinstance(answer, FileResponse):
        slot.release()
    return answer
