"""resolve: the files themselves, from the bytes that were published, or computed while they are read."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Annotated

from fastapi import Depends, Request, Response

from app.core.source import Source
from app.db.releases import Release
from app.hub.opening import COMMIT, Opened, opened
from app.hub.routing import hub_router
from app.hub.texts import text_source
from app.hub.waiting import Waiting
from app.services import purges, workers
from app.services.repositories import Adapter, Base, Nothing
from app.services.snapshots import SHA256_DIGITS, Entry
from app.wire.reading import Body, Conditions, Wanted, answer
from app.wire.stored import stored
from app.wire.visits import Access, AccessDep

router = hub_router()

PINNED = "private, immutable, max-age=31536000, no-transform"
MOVABLE = "private, no-cache, no-transform"
WEIGHTS = ".safetensors"
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

    waiting: Waiting = request.app.state.waiting
    return await waiting.read(access.backend, partial(purges.again, read))


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
    assert not isinstance(thing, Nothing)  # noqa: S101  it has no files
    plain = partial(stored, request, conditions, entry.path, entry.etag, entry.size, {})
    if entry.text is not None:
        return plain(partial(text_source, entry.text))
    if isinstance(thing, Adapter):
        opens = partial(library.open_file, thing.version, entry.path, entry.etag)
        return _checked(request, partial(library.require_readable, None, thing.version), plain, opens)
    if isinstance(thing, Base) or _is_carried(entry):
        release = thing.release if isinstance(thing, Base) else thing.port.release
        return _checked(request, partial(library.require_readable, release), plain, _release(found, release))
    port = thing.port
    if request.method == "HEAD":
        library.require_readable(port.release, port.version)
    elsewhere = partial(_on_a_worker, access, found, conditions)
    return answer(access.backend, found.uow, port, entry.path, request, conditions, elsewhere)


def _is_carried(entry: Entry) -> bool:
    """Whether a file of a merged model is the release's own, byte for byte: then no place is taken for it, and nothing computed.

    The ETag says so: it is a digest. The canonical recipe carries nothing from the patch.
    """
    return len(entry.etag) == SHA256_DIGITS


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
