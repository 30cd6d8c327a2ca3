"""resolve: the files themselves, from the bytes that were published, or computed while they are read."""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.core.source import Source
from app.db.releases import Release
from app.domain.errors import DomainError
from app.hub.opening import COMMIT, Opened, opened
from app.hub.routing import hub_router
from app.hub.texts import text_source
from app.services import purges, workers
from app.services.repositories import Adapter, Base, Merged
from app.services.snapshots import Entry
from app.wire.reading import Body, Conditions, Wanted, answer
from app.wire.stored import stored
from app.wire.visits import Access, AccessDep

router = hub_router()

PINNED = "private, immutable, max-age=31536000, no-transform"
MOVABLE = "private, no-cache, no-transform"
WEIGHTS = ".safetensors"
# Clients take 503 to a GET for the end. They wait ten seconds for a first byte: so long they wait here for a place.
PATIENCE_SECONDS, PAUSE_SECONDS = 8.0, 0.25

_COMMIT_ID = re.compile(r"[0-9a-f]{40}")


@router.head("/{owner}/{name}/resolve/{revision}/{path:path}")
@router.get("/{owner}/{name}/resolve/{revision}/{path:path}")
async def read_file(
    owner: str, name: str, revision: str, path: str, request: Request, access: AccessDep,
    conditions: Annotated[Conditions, Depends()],
) -> Response:  # fmt: skip
    """One file: HEAD says what it is and whether it can be had now (503 and Retry-After where not), GET sends it."""

    def read() -> Response:
        with opened(access, owner, name, revision) as found:
            return _answer(access, found, found.entry(path), request, conditions)

    return await _patiently(partial(purges.again, read))


async def _patiently(read: Callable[[], Response]) -> Response:
    """Tries again for a while when all places for reads are taken; nobody's thread waits meanwhile."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await run_in_threadpool(read)
        except DomainError as error:
            if error.code != "server.busy" or time.monotonic() > deadline:
                raise
        await asyncio.sleep(PAUSE_SECONDS)


def _answer(access: Access, found: Opened, entry: Entry, request: Request, conditions: Conditions) -> Response:
    made = _made(access, found, entry, request, conditions)
    made.headers[COMMIT] = found.snapshot.commit
    made.headers["Cache-Control"] = PINNED if _COMMIT_ID.fullmatch(found.revision) else MOVABLE
    if entry.path.endswith(WEIGHTS):
        made.headers["X-Linked-Etag"] = f'"{entry.etag}"'
        made.headers["X-Linked-Size"] = str(entry.size)
    return made


def _made(access: Access, found: Opened, entry: Entry, request: Request, conditions: Conditions) -> Response:
    """The answer from where the file's bytes are: a text, the release, the version, or a merge."""
    thing, library = found.snapshot.thing, found.uow.tools.library
    plain = partial(stored, request, conditions, entry.path, entry.etag, entry.size, {})
    if entry.text is not None:
        return plain(partial(text_source, entry.text))
    if isinstance(thing, Base):
        return _checked(request, partial(library.require_readable, thing.release), plain, _release(found, thing.release))
    if isinstance(thing, Adapter):
        opens = partial(library.open_file, thing.version, entry.path, entry.etag)
        return _checked(request, partial(library.require_readable, None, thing.version), plain, opens)
    assert isinstance(thing, Merged)  # noqa: S101  what has nothing has no files
    port = thing.port
    if request.method == "HEAD":
        library.require_readable(port.release, port.version)
    elsewhere = partial(_on_a_worker, access, found, conditions)
    return answer(access.backend, found.uow, port, entry.path, request, conditions, elsewhere)


def _checked(
    request: Request, check: Callable[[], None], answered: Callable[..., Response],
    opens: Callable[[], AbstractContextManager[Source]],
) -> Response:  # fmt: skip
    if request.method == "HEAD":
        check()
    return answered(opens)


def _release(found: Opened, release: Release) -> Callable[[], AbstractContextManager[Source]]:
    return partial(found.uow.tools.library.open_release, release, in_order=True)


def _on_a_worker(access: Access, found: Opened, conditions: Conditions, wanted: Wanted) -> Body | None:
    """The bytes by way of a worker, where one reads merged files: clients are never sent elsewhere with their tokens."""
    reader = workers.choose(access.backend.readers(), wanted.port.fingerprint) if wanted.file.computed else None
    if reader is None:
        return None
    url = workers.signed_url(found.uow, reader, wanted.port.id, wanted.file.path)
    return access.backend.handed_over.read(url, conditions.passed_on(), wanted.span.length)
