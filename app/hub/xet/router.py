"""Files by Xet: a small face of a content-addressed store, for one session of one client that pushes to one repository.

What clients take a 404 for is not here: chunks that others sent, leave to send to storage, shards of the next version.
"""

import re
import secrets
from functools import partial
from typing import Annotated

from fastapi import Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from app.core.xet import MAX_BLOCK_BYTES, MAX_TERMS, RECORD, BlockScanner, ShardFile, ShardScanner
from app.domain.errors import DomainError
from app.domain.repositories import Repository, parse_repository
from app.http.access import AccessDep, RegistryDep
from app.http.body_routes import ignores_body, streams_body
from app.http.request_slots import release_current
from app.http.request_streams import pieces, said_bytes, stage
from app.http.signed_auth import BearerDep, Sender
from app.hub.routing import hub_router
from app.hub.schemas import address
from app.hub.xet.rebuilds import Rebuilds
from app.services.hubview import preupload
from app.services.registry import Registry
from app.services.unit_of_work import run_with_retry
from app.services.uploads import reservations, upload_grants, xet_blocks
from app.services.uploads.pushed_objects import PUSHED, new_upload

router = hub_router()

# Memory for a shard while its files are reconstructed: `MAX_TERMS` records, and a piece of its body.
SHARD_PIECE = 256 * 2**10
SHARD_BYTES = RECORD * MAX_TERMS + SHARD_PIECE
LARGEST_BASE = 2**42

_SESSION = re.compile(r"[A-Za-z0-9_-]{8,64}")
_HASH = re.compile(r"[0-9a-f]{64}")


@router.get("/api/models/{owner}/{name}/xet-write-token/{revision:path}")
def write_token(
    owner: str, name: str, revision: str, request: Request, access: AccessDep,
    x_xet_session_id: Annotated[str | None, Header(max_length=200)] = None,
) -> JSONResponse:  # fmt: skip
    """Leave to send blocks for one repository. The address holds the session: clients remember by it what they sent where."""
    repository = parse_repository(owner, name)
    given = x_xet_session_id or ""
    session = given if _SESSION.fullmatch(given) else secrets.token_hex(16)
    with access.read() as (uow, principal):
        preupload.require_target(uow, principal, repository, revision)
        # Nobody guesses another's session: what was sent in it is found by its name together with who sends.
        token, expires = upload_grants.give(uow, principal, session=session, repository=[owner, name])
    url = address(request, f"cas/{session}")
    said = {"X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires), "X-Xet-Cas-Url": url}
    return JSONResponse({"accessToken": token, "exp": expires, "casUrl": url}, headers=said)


@router.post("/cas/{session}/v1/xorbs/{prefix}/{block}")
@streams_body()
async def put_block(
    session: str, prefix: str, block: str, request: Request, registry: RegistryDep, sender: BearerDep  # noqa: ARG001
) -> JSONResponse:  # fmt: skip
    """Takes a block; its chunks are looked at while they come, and unpacked when a shard says what they are part of."""
    scope, repository = _scope(sender, session)
    if not _HASH.fullmatch(block):
        raise DomainError("request.invalid", reason="A block is named by 64 hex digits.")
    principal = sender.principal

    begin = partial(
        xet_blocks.begin_block, principal=principal, repository=repository, session=scope, name=block, size=said_bytes(request)
    )
    reserved = await run_in_threadpool(run_with_retry, registry.write, begin)
    if reserved is None:
        return JSONResponse({"was_inserted": False})
    store, upload, scanner = registry.tools.blobs, new_upload(), BlockScanner(block)

    def keep(size: int) -> None:
        store.append(upload, xet_blocks.HEADERS, 0, scanner.finish())
        run_with_retry(
            registry.write, lambda uow: xet_blocks.keep_block(uow, principal, repository, scope, block, size, upload, reserved)
        )

    def give_up() -> None:
        store.discard(upload)
        reservations.give_back(registry.write, reserved)

    try:
        size, _ = await stage(request, store, upload, PUSHED, MAX_BLOCK_BYTES, scanner.feed)
        await run_in_threadpool(keep, size)
    except BaseException:
        await run_in_threadpool(give_up)
        raise
    return JSONResponse({"was_inserted": True})


@router.post("/cas/{session}/v1/shards")
@streams_body(SHARD_BYTES)
async def put_shard(session: str, request: Request, registry: RegistryDep, sender: BearerDep) -> JSONResponse:
    """Puts the files together that a shard describes; they are believed when their sha256 was computed here."""
    scope, repository = _scope(sender, session)
    rebuilds: Rebuilds = request.app.state.rebuilds
    release_current()
    async with rebuilds.turn(sender.principal.owner):
        scanner = ShardScanner()
        async for piece in pieces(request, SHARD_PIECE):
            await run_in_threadpool(scanner.feed, piece)
        async with rebuilds.slot():
            await run_in_threadpool(_rebuild, registry, sender, repository, scope, scanner.finish())
    return JSONResponse({"result": 1})


@router.get("/cas/{session}/{rest:path}")
@router.post("/cas/{session}/{rest:path}")
@ignores_body
def not_here(session: str, rest: str, sender: BearerDep) -> Response:  # noqa: ARG001
    """What other stores have and this one does not: clients do without it."""
    raise DomainError("request.route", path="/cas/...")


def _scope(sender: Sender, session: str) -> tuple[str, Repository]:
    """The session as one that nobody else can name, and the repository that it is for."""
    if sender.claims.get("session") != session:
        raise DomainError("upload.signature")
    owner, name = sender.claims["repository"]
    return session, parse_repository(owner, name)


def _rebuild(registry: Registry, sender: Sender, repository: Repository, scope: str, files: list[ShardFile]) -> None:
    largest = LARGEST_BASE if repository.kind == "base" else registry.tools.limits.patch_bytes
    xet_blocks.rebuild(registry, sender.principal, repository, scope, files, largest)
