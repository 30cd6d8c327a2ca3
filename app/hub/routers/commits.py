"""Commits: what a client asks before it pushes, and the commit itself, read line by line."""

import asyncio
import base64
import binascii
import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import Repository, parse_repository
from app.http.access import AccessDep
from app.http.body_limits import require_simple
from app.http.body_routes import buffers_body, streams_body
from app.http.long_work import publishing
from app.http.request_streams import lines
from app.hub.routing import hub_router
from app.hub.schemas import FilesIn, address, left_out, parsed, warning
from app.services.hubview import base_pushes, push_publishing, pushes
from app.services.hubview import preupload as offers
from app.services.hubview.pushes import Added, Change, Deleted
from app.services.patches.tombstones import reread_if_purged
from app.services.registry import Registry
from app.services.unit_of_work import run_with_retry
from app.services.uploads import pushed_objects

router = hub_router()

# A regular file in base64, with what is said around it.
MAX_LINE = pushes.REGULAR_BYTES * 4 // 3 + 64 * 2**10
MAX_COMMIT = 256 * 2**20
# Inline files up to this are recorded with the commit, in its transaction.
HELD_BYTES = pushes.REGULAR_BYTES
PATIENCE_SECONDS, PAUSE_SECONDS = 5.0, 0.25

Taken = tuple[str, dict[str, str]]  # the commit id, and headers that name the files that were left out


@router.post("/api/models/{owner}/{name}/preupload/{revision:path}")
@buffers_body(None)
async def preupload(owner: str, name: str, revision: str, request: Request, access: AccessDep) -> JSONResponse:
    """How each file is to be sent, which need not be, and which belong to no patch."""
    body, repository = parsed(request, FilesIn), parse_repository(owner, name)
    announced = {file.path: file.size for file in body.files}

    def look() -> offers.Offers:
        with access.read() as (uow, principal):
            return offers.offer(uow, principal, repository, revision, announced)

    found = await run_in_threadpool(reread_if_purged, look)
    shown = [{"path": o.path, "uploadMode": o.mode, "shouldIgnore": o.ignored, "oid": o.oid} for o in found.files]
    if not found.is_noted:
        note = partial(pushes.note_dropped, principal=access.authenticate(), repository=repository, dropped=found.dropped)
        await run_in_threadpool(run_with_retry, access.registry.write, note)
    return JSONResponse({"files": shown}, headers=left_out(repository.full_name, found.dropped))


@router.post("/api/models/{owner}/{name}/commit/{revision:path}")
@streams_body(MAX_LINE + HELD_BYTES)
async def commit(owner: str, name: str, revision: str, request: Request, access: AccessDep) -> JSONResponse:
    """Takes a commit; where the repository is complete with it, a version is published before the answer."""
    repository = parse_repository(owner, name)
    registry, principal = access.registry, access.authenticate()
    reader = _Reader(registry, principal, repository)
    async for line in lines(request, MAX_LINE, MAX_COMMIT):
        await run_in_threadpool(reader.take, line)
    async with publishing(request, principal.owner):
        oid, said = await _when_free(partial(_take, registry, principal, repository, revision, reader))
    url = address(request, f"{repository.full_name}/commit/{oid}")
    return JSONResponse({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}, headers=said)


async def _when_free(take: Callable[[], Taken]) -> Taken:
    """Takes a commit in a thread. While another commit to the repository is in progress, waits without a thread and retries.

    It gives up after `PATIENCE_SECONDS`. Clients of the Hub do not retry a commit that was refused.
    """
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await run_in_threadpool(take)
        except DomainError as error:
            if error.code != "request.under_way" or time.monotonic() > give_up:
                raise
        await asyncio.sleep(PAUSE_SECONDS)


def _take(
    registry: Registry, principal: Principal, repository: Repository, revision: str, reader: "_Reader"
) -> Taken:  # fmt: skip
    """The commit id, and what is to be told beside it."""
    changes = reader.finish()
    if repository.kind == "base":
        taken = base_pushes.commit(registry, principal, repository, revision, changes, reader.inline)
        return taken.commit, warning(f"release {repository.full_name}", taken.sentence)
    made = push_publishing.commit(registry, principal, repository, revision, reader.parent, changes, reader.inline)
    return made.commit, left_out(repository.full_name, list(made.dropped))


class _Reader:
    """Reads the lines of a commit. Keeps at most `HELD_BYTES` of inline files in memory; the others are recorded as they arrive.

    Attributes:
        parent: the commit on which the client based its commit, if it names one.
        inline: the files in memory (sha256 -> bytes).
    """

    def __init__(self, registry: Registry, principal: Principal, repository: Repository) -> None:
        self._registry, self._principal, self._repository = registry, principal, repository
        self._changes, self._number = list[Change](), 0
        self._has_header, self.parent = False, None
        self.inline = dict[str, bytes]()

    def take(self, line: bytes) -> None:
        """The next line.

        Raises:
            DomainError: push.lines, and what is said of a file that it holds.
        """
        self._number += 1
        if self._number > self._registry.tools.limits.patch_files:
            raise self._refusal(f"there are more than {self._registry.tools.limits.patch_files}")
        key, value = self._parsed(line)
        if key == "header":
            self._has_header, self.parent = True, self._optional(value, "parentCommit", 100)
        elif key == "file":
            self._file(value)
        elif key == "lfsFile":
            if value.get("algo", "sha256") != "sha256":
                raise self._refusal("files are named by their sha256 here")
            size = value.get("size")
            if size is not None and (type(size) is not int or not 0 <= size < 2**62):
                raise self._refusal("'size' must be a number of bytes")
            self._changes.append(Added(self._text(value, "path"), self._text(value, "oid", 64), size))
        elif key in ("deletedFile", "deletedFolder"):
            path = self._text(value, "path").rstrip("/")
            self._changes.append(Deleted(path, key == "deletedFolder"))
        else:
            raise self._refusal(f"{key[:60]!r} is not known here")

    def finish(self) -> list[Change]:
        """What the commit does; raises `DomainError` (push.lines) where it says nothing."""
        if not self._has_header:
            raise self._refusal("there is no header")
        return self._changes

    def _parsed(self, line: bytes) -> tuple[str, dict[str, Any]]:
        require_simple(line)
        try:
            read = json.loads(line.decode())
            if isinstance(read, dict) and isinstance(read.get("key"), str) and isinstance(read.get("value"), dict):
                return read["key"], read["value"]
        except (ValueError, RecursionError):
            pass
        raise self._refusal("it is no object with 'key' and 'value'")

    def _file(self, value: dict[str, Any]) -> None:
        path, content = self._text(value, "path"), value.get("content")
        if not isinstance(content, str) or value.get("encoding", "base64") not in ("base64", "utf-8"):
            raise self._refusal("'content' must be text in base64")
        try:
            data = base64.b64decode(content, validate=True) if value.get("encoding") != "utf-8" else content.encode()
        except (binascii.Error, ValueError):
            raise self._refusal("'content' is not base64") from None
        sha256 = hashlib.sha256(data).hexdigest()
        if offers.belongs(self._repository, path):
            self._hold(data, sha256)
        self._changes.append(Added(path, sha256, len(data)))

    def _hold(self, data: bytes, sha256: str) -> None:
        if sum(map(len, self.inline.values())) + len(data) > HELD_BYTES:
            with pushed_objects.staged(self._registry.tools.blobs, self.inline) as files:
                keep = partial(pushed_objects.keep, principal=self._principal, repository=self._repository, files=files)
                run_with_retry(self._registry.write, keep)
            self.inline = {}
        self.inline[sha256] = data

    def _text(self, value: dict[str, Any], field: str, longest: int = 1024) -> str:
        text = value.get(field)
        if not isinstance(text, str) or not 0 < len(text) <= longest or not text.isprintable():
            raise self._refusal(f"{field!r} must be text of at most {longest} characters")
        return text

    def _optional(self, value: dict[str, Any], field: str, longest: int) -> Any:
        return self._text(value, field, longest) if value.get(field) is not None else None

    def _refusal(self, reason: str) -> DomainError:
        return DomainError("push.lines", line=self._number, reason=reason)
