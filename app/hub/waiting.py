"""Waiting for a place to read a file.

A client that is sent away comes back five times at most, and some not at all. It waits ten seconds for a first byte, so nearly as
long it waits here, in the order of coming and without a thread.
"""

import asyncio
from collections.abc import Callable

from fastapi import Response
from fastapi.concurrency import run_in_threadpool

from app.services.places import NoPlaceError, Place
from app.wire.admission import give_back, place_in_turn
from app.wire.reading import FileResponse
from app.wire.request_slots import release_current

PATIENCE_SECONDS = 8.0

Read = Callable[[Place | None], Response]


async def read_in_turn(read: Read) -> Response:
    """Runs a read in a thread, and where it finds no place, again with one that was waited for.

    Raises:
        DomainError: server.busy, when none came in time; whatever `read` raises.
    """
    try:
        return await run_in_threadpool(read, None)
    except NoPlaceError as refusal:
        release_current()  # whoever waits for a place keeps no other request of the owner waiting
        place = await place_in_turn(refusal, PATIENCE_SECONDS)
    try:
        return await run_in_threadpool(_read_with, read, place)
    except asyncio.CancelledError:  # perhaps before it had a thread
        give_back(place)
        raise


def _read_with(read: Read, place: Place) -> Response:
    """The answer owns the place where it reads a file; otherwise it is given back."""
    try:
        answer = read(place)
    except BaseException:
        place.release()
        raise
    if not isinstance(answer, FileResponse):
        place.release()
    return answer
