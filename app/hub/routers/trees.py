"""Files and directories of a repository at a revision."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, Query, Request
from fastapi.responses import JSONResponse

from app.domain.errors import DomainError
from app.domain.path_index import PathIndex
from app.http.access import AccessDep
from app.http.body_routes import buffered_body, buffers_body
from app.hub import serializers
from app.hub.open_snapshot import open_repository
from app.hub.paging import PageDep
from app.hub.routing import hub_router
from app.services.hubview import refs
from app.services.hubview.snapshots import Snapshot, SnapshotFile
from app.services.patches.tombstones import reread_if_purged

router = hub_router()

MAX_PATHS = 1000
MAX_FORM = 2**20


@router.get("/api/models/{owner}/{name}/tree/{revision}")
@router.get("/api/models/{owner}/{name}/tree/{revision}/{path:path}")
def list_tree(
    owner: str, name: str, revision: str, request: Request, access: AccessDep, page: PageDep, path: str = "",
    recursive: Annotated[bool, Query()] = False, expand: Annotated[bool, Query()] = False,
) -> JSONResponse:  # fmt: skip
    """What lies in a directory, or everywhere below it; by path, in pages."""

    def read() -> JSONResponse:
        found = open_repository(access, owner, name, revision)
        inside = _below(found.snapshot.files, path.strip("/"))
        if path.strip("/") and not inside:
            raise found.no_entry(path)
        last = serializers.last_commit(found.snapshot, refs.title_of(found.snapshot.thing)) if expand else None
        every = _children(inside, path.strip("/"), recursive)
        start = bisect_right(list(every), page.after) if page.after else 0
        chosen = list(islice(every, start, start + page.limit))
        shown = [_shape(one, every[one], last) for one in chosen]
        more = start + page.limit < len(every)
        return JSONResponse(shown, headers=page.link(request, chosen[-1] if more else None))

    return reread_if_purged(read)


async def get_form(request: Request) -> dict[str, list[str]]:
    """Parses a form in the body of a request.

    Raises:
        DomainError: request.invalid.
    """
    try:
        return parse_qs(buffered_body(request).decode(), max_num_fields=MAX_PATHS + 10, errors="strict")
    except ValueError:
        reason = f"The body is no form of at most {MAX_PATHS} paths (application/x-www-form-urlencoded)."
        raise DomainError("request.invalid", reason=reason) from None


@router.post("/api/models/{owner}/{name}/paths-info/{revision}")
@buffers_body(MAX_FORM)
def get_paths(
    owner: str, name: str, revision: str, access: AccessDep, form: Annotated[dict[str, list[str]], Depends(get_form)]
) -> JSONResponse:  # fmt: skip
    """Those of some paths that are there."""

    def read() -> JSONResponse:
        found = open_repository(access, owner, name, revision)
        expand = form.get("expand", ["false"])[-1].lower() == "true"
        last = serializers.last_commit(found.snapshot, refs.title_of(found.snapshot.thing)) if expand else None
        paths = [path.strip("/") for path in dict.fromkeys(form.get("paths", ()))]
        index = PathIndex(found.snapshot.files)
        return JSONResponse([shape for path in paths if (shape := _at(found.snapshot, index, path, last))])

    return reread_if_purged(read)


def _at(snapshot: Snapshot, index: PathIndex, path: str, last: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if path in snapshot.files:
        return serializers.file_entry(snapshot.files[path], last)
    inside = [snapshot.files[one] for one in index.below(path)] if path else []
    return serializers.directory_entry(path, inside, last) if inside else None


def _below(files: Mapping[str, SnapshotFile], directory: str) -> dict[str, SnapshotFile]:
    start = f"{directory}/" if directory else ""
    return {path: entry for path, entry in files.items() if path.startswith(start)}


def _children(inside: Mapping[str, SnapshotFile], directory: str, recursive: bool) -> dict[str, list[SnapshotFile]]:
    """Paths in order; of a file, itself alone, of a directory, what is below it."""
    found = dict[str, list[SnapshotFile]]()
    for path, entry in inside.items():
        for place in _places(path, directory, recursive):
            found.setdefault(place, []).append(entry)
    return dict(sorted(found.items()))


def _places(path: str, directory: str, recursive: bool) -> Iterator[str]:
    """The path and the directories between it and the one that is listed; the first of them, where not all are wanted."""
    parts = path.removeprefix(f"{directory}/" if directory else "").split("/")
    before = [directory] if directory else []
    for depth in range(1, len(parts) + 1 if recursive else 2):
        yield "/".join([*before, *parts[:depth]])


def _shape(path: str, below: list[SnapshotFile], last: Mapping[str, Any] | None) -> dict[str, Any]:
    if len(below) == 1 and below[0].path == path:
        return serializers.file_entry(below[0], last)
    return serializers.directory_entry(path, below, last)
