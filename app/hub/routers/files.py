"""resolve: the files themselves, from the bytes that were published, or computed while they are read."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request, Response

from app.http.access import Access, AccessDep
from app.http.conditional import Span
from app.http.merged_files import respond_merged
from app.http.merged_response import Conditions, ConditionsDep, Reader, Target, respond
from app.hub.open_snapshot import COMMIT, OpenSnapshot, open_repository
from app.hub.read_queue import read_in_turn
from app.hub.routing import hub_router
from app.services.artifacts.file_reads import Content
from app.services.artifacts.stored_files import patch_content, release_content, text_content
from app.services.hubview.repositories import Adapter, BaseModel, Merged, Nothing, Thing
from app.services.hubview.snapshots import SHA256_DIGITS, SnapshotFile
from app.services.patches.tombstones import reread_if_purged
from app.services.read_slots import ReadSlot

router = hub_router()

PINNED = "private, immutable, max-age=31536000, no-transform"
MOVABLE = "private, no-cache, no-transform"
WEIGHTS = ".safetensors"
_COMMIT_ID = re.compile(r"[0-9a-f]{40}")


@router.head("/{owner}/{name}/resolve/{revision}/{path:path}")
@router.get("/{owner}/{name}/resolve/{revision}/{path:path}")
async def read_file(
    owner: str, name: str, revision: str, path: str, request: Request, access: AccessDep, conditions: ConditionsDep
) -> Response:  # fmt: skip
    """One file: HEAD says what it is and whether it can be had now (503 and Retry-After where not), GET sends it."""

    def read(slot: ReadSlot | None) -> Response:
        def once() -> Response:
            found = open_repository(access, owner, name, revision)
            return _answer(_Asked(access, request, conditions, slot), found, found.entry(path))

        return reread_if_purged(once)

    return await read_in_turn(read)


@dataclass(frozen=True)
class _Asked:
    """A request for a file; `slot` is a slot that it already waited for."""

    access: Access
    request: Request
    conditions: Conditions
    slot: ReadSlot | None


def _answer(asked: _Asked, found: OpenSnapshot, entry: SnapshotFile) -> Response:
    made = _merged(asked, found, entry) if _is_computed(found, entry) else _stored(asked, found, entry)
    made.headers[COMMIT] = found.snapshot.commit
    made.headers["Cache-Control"] = PINNED if _COMMIT_ID.fullmatch(found.revision) else MOVABLE
    if entry.path.endswith(WEIGHTS):
        made.headers["X-Linked-Etag"] = f'"{entry.etag}"'
        made.headers["X-Linked-Size"] = str(entry.size)
    return made


def _is_computed(found: OpenSnapshot, entry: SnapshotFile) -> bool:
    """Whether a file of a merged model is computed. A file that equals the release's byte for byte has a digest as its ETag.

    With the canonical recipe, no file is taken from the patch.
    """
    return isinstance(found.snapshot.thing, Merged) and entry.text is None and len(entry.etag) != SHA256_DIGITS


def _stored(asked: _Asked, found: OpenSnapshot, entry: SnapshotFile) -> Response:
    """Answers with a generated text, or a stored file of the release or the version."""
    registry, thing, text = asked.access.registry, found.snapshot.thing, entry.text
    library, reader = registry.tools.artifacts, Reader(found.principal, _family_of(thing))
    if text is not None:
        return _respond(asked, reader, entry, lambda wanted: text_content(text, wanted.stop))
    if isinstance(thing, Adapter):
        version = thing.version
        if asked.request.method == "HEAD":
            library.require_readable(None, version)
        return _respond(asked, reader, entry, lambda wanted: patch_content(library, version, entry.path, entry.etag, wanted.stop))
    assert not isinstance(thing, Nothing)  # noqa: S101  it has no files
    release = thing.release if isinstance(thing, BaseModel) else thing.port.release
    if asked.request.method == "HEAD":
        library.require_readable(release)
    owner = found.principal.owner
    return _respond(
        asked, reader, entry,
        lambda wanted: release_content(registry.tools, release, entry.path, wanted.start, wanted.stop, owner),
    )  # fmt: skip


def _respond(asked: _Asked, reader: Reader, entry: SnapshotFile, content: Callable[[Span], Content]) -> Response:
    return respond(asked.request, asked.conditions, Target(entry.path, entry.size, entry.etag, {}), content, reader, asked.slot)


def _family_of(thing: Thing) -> str | None:
    """Returns the family that a reader of a repository must have access to."""
    if isinstance(thing, BaseModel):
        return thing.release.family_id
    if isinstance(thing, Nothing) or thing.port is None:
        return None
    return thing.port.release.family_id


def _merged(asked: _Asked, found: OpenSnapshot, entry: SnapshotFile) -> Response:
    """Answers with a merged file, computed here or fetched from a worker: clients with tokens are never redirected."""
    thing = found.snapshot.thing
    assert isinstance(thing, Merged)  # noqa: S101  only merged models have computed files
    registry, port = asked.access.registry, thing.port
    if asked.request.method == "HEAD":
        registry.tools.artifacts.require_readable(port.release, port.version)
    return respond_merged(
        asked.request, asked.conditions, registry, port, entry.path, found.principal, asked.slot, "pass_through"
    )
