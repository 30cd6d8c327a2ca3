"""Files by LFS: where they are to be sent, and the registry as that place; the store itself where it takes parts."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from app.domain.errors import DomainError
from app.domain.repositories import parse_repository
from app.http.access import Access, AccessDep, RegistryDep
from app.http.body_routes import buffers_body, streams_body
from app.http.leases import renewed
from app.http.request_streams import discard_body, stage
from app.http.signed_auth import Sender, SenderDep
from app.hub.routing import hub_router
from app.hub.schemas import BatchIn, ObjectIn, address, parsed
from app.services.hubview import preupload
from app.services.unit_of_work import UnitOfWork, run_with_retry
from app.services.uploads import pushed_objects, upload_attempts, upload_grants
from app.services.uploads.pushed_objects import PUSHED, ObjectRequest, UploadTarget, new_upload

router = hub_router()

Value = TypeVar("Value")
LFS = "application/vnd.git-lfs+json"


@router.post("/{owner}/{name}.git/info/lfs/objects/batch")
@buffers_body(None)
async def batch(owner: str, name: str, request: Request, access: AccessDep) -> JSONResponse:
    """Where each file is to be sent; nowhere where it is there."""
    body, repository = parsed(request, BatchIn), parse_repository(owner, name)
    if body.operation != "upload":
        raise DomainError("request.invalid", reason="Files are read by their addresses under /resolve/, not by LFS.")
    wanted = list(dict.fromkeys(ObjectRequest(one.oid, one.size) for one in body.objects))

    principal = access.authenticate()

    def begin(uow: UnitOfWork) -> list[tuple[UploadTarget, str]]:
        has = preupload.sizes(uow, principal, repository)
        places = pushed_objects.begin(uow, principal, repository, wanted, has)
        return [(place, upload_grants.give(uow, principal, upload=place.object)[0] if place.object else "") for place in places]

    found = await run_in_threadpool(run_with_retry, access.registry.write, begin)
    in_parts = "multipart" in body.transfers and any(place.urls for place, _ in found)
    shown = [_shown(request, place, signed, f"{owner}/{name}", in_parts) for place, signed in found]
    return JSONResponse({"transfer": "multipart" if in_parts else "basic", "objects": shown}, media_type=LFS)


@router.put("/api/objects/{ident}")
@streams_body()
async def put_object(ident: str, request: Request, registry: RegistryDep, sender: SenderDep) -> JSONResponse:
    """Receives a file and hashes it on arrival. A broken transfer must be sent again from its beginning.

    Only one request at a time can send a file; another one is refused at once.
    """
    _require(sender, ident)
    blobs, upload = registry.tools.blobs, new_upload()

    def change(act: Callable[[UnitOfWork, str, str], Value]) -> Value:
        return run_with_retry(registry.write, lambda uow: act(uow, ident, upload))

    def give_up() -> None:
        blobs.discard(upload)
        with suppress(DomainError):  # the original error is the answer; if this fails, the lease expires by itself
            change(upload_attempts.end)

    target = await run_in_threadpool(change, upload_attempts.begin)
    if target.is_there:
        await discard_body(request, target.size)
        return JSONResponse({})
    try:
        async with renewed(partial(change, upload_attempts.renew), upload_attempts.RENEW_SECONDS):
            received, actual = await stage(request, blobs, upload, PUSHED, target.size)
        if received != target.size:
            raise DomainError("upload.incomplete", path=target.digest, received=received, size=target.size)
        if actual != target.digest:
            raise DomainError("upload.digest", path=target.digest, actual=actual, expected=target.digest)
        await run_in_threadpool(blobs.sync_staged, upload, PUSHED)
        await run_in_threadpool(change, upload_attempts.arrive)
    except BaseException:
        await run_in_threadpool(give_up)
        raise
    return JSONResponse({})


@router.post("/api/objects/{ident}/complete")
def complete(ident: str, registry: RegistryDep, sender: SenderDep) -> JSONResponse:
    """Puts the parts together that went straight to the store; which those are, the store says, not the client."""
    _require(sender, ident)
    run_with_retry(registry.write, lambda uow: pushed_objects.complete(uow, ident))
    return JSONResponse({})


@router.post("/api/objects/{owner}/{name}/verify")
async def verify(owner: str, name: str, request: Request, access: AccessDep) -> JSONResponse:
    """Whether a file is there, after it was sent."""
    body = parsed(request, ObjectIn)
    await run_in_threadpool(_verify, access, owner, name, ObjectRequest(body.oid, body.size))
    return JSONResponse({})


def _verify(access: Access, owner: str, name: str, wanted: ObjectRequest) -> None:
    with access.read() as (uow, principal):
        pushed_objects.require_arrived(uow, principal, parse_repository(owner, name), wanted)


def _require(sender: Sender, ident: str) -> None:
    if sender.claims.get("upload") != ident:
        raise DomainError("upload.signature")


def _shown(request: Request, place: UploadTarget, signed: str, repository: str, in_parts: bool) -> dict[str, Any]:
    """An object of the answer, as the LFS protocol spells it."""
    shown: dict[str, Any] = {"oid": place.wanted.sha256, "size": place.wanted.size}
    if place.object is None:
        return shown
    here = partial(address, request)
    upload: dict[str, Any] = {"href": here(f"api/objects/{place.object}?signed={signed}")}
    if in_parts and place.urls:
        parts = {str(number): url for number, url in enumerate(place.urls, 1)}
        upload = {
            "href": here(f"api/objects/{place.object}/complete?signed={signed}"),
            "header": {"chunk_size": str(place.part_bytes), **parts},
        }
    return {**shown, "actions": {"upload": upload, "verify": {"href": here(f"api/objects/{repository}/verify")}}}
