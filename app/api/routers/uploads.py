"""/uploads: the bytes of a draft, streamed to the store, resumable, published at the end."""

from typing import Annotated

from fastapi import Header, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.api.routing import api_router
from app.api.schemas.patches import DirectIn, DirectOut, PartOut, VersionOut
from app.domain.errors import DomainError
from app.http import long_work
from app.http.access import Access, AccessDep
from app.http.body_routes import streams_body
from app.http.request_streams import pieces, said_bytes
from app.services.patches import drafts, publishing
from app.services.unit_of_work import run_with_retry

router = api_router(tags=["uploads"])

OFFSET = "Upload-Offset"


@router.get("/uploads/{upload}")
def get_upload(upload: str, access: AccessDep) -> VersionOut:
    """An open upload, and how many bytes of each file have arrived."""
    with access.read() as (uow, principal):
        row = drafts.open_upload(uow, principal, upload)
        return VersionOut.of(row, drafts.received(uow, row), uow.tools.blobs.direct is not None)


@router.post("/uploads/{upload}/direct")
def send_direct(upload: str, body: DirectIn, access: AccessDep) -> DirectOut:
    """Where the parts of a file can be PUT straight to the object store, for an hour; those that are there are left out.

    Publishing puts them together and verifies them. Only where the draft says `direct`.
    """
    with access.write() as (uow, principal):
        step, parts = drafts.direct_parts(uow, principal, upload, body.path)
        return DirectOut(part_size=step, parts=[PartOut(number=p.number, offset=p.offset, size=p.size, url=p.url) for p in parts])


@router.head("/uploads/{upload}/files/{path:path}", status_code=200)
def get_offset(upload: str, path: str, access: AccessDep) -> Response:
    """How many bytes of a file have arrived, in Upload-Offset."""
    with access.read() as (uow, principal):
        _, _, size, received = drafts.place(uow, principal, upload, path)
        return Response(headers={OFFSET: str(received), "Upload-Length": str(size)})


@router.patch(
    "/uploads/{upload}/files/{path:path}",
    status_code=204,
    openapi_extra={
        "requestBody": {"content": {"application/offset+octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
    },
)
@streams_body()
async def append_bytes(
    upload: str,
    path: str,
    request: Request,
    access: AccessDep,
    upload_offset: Annotated[int, Header(ge=0, description="Where these bytes begin: what was received so far.")],
) -> Response:
    """Append bytes to a file of a draft. What arrives is kept even if the connection breaks; go on at Upload-Offset."""
    upload_id, name, size, received = await run_in_threadpool(_target, access, upload, path)
    if upload_offset != received:  # the store asks again, but knows neither the file's name nor requests without bytes
        raise DomainError("upload.offset", path=path, received=received, offset=upload_offset)
    if upload_offset + said_bytes(request) > size:
        raise DomainError("upload.too_long", path=path, size=size)
    blobs, offset = access.registry.tools.blobs, upload_offset
    async for part in pieces(request, blobs.write_bytes, whole=False):
        if offset + len(part) > size:
            raise DomainError("upload.too_long", path=path, size=size)
        offset = await run_in_threadpool(blobs.append, upload_id, name, offset, part)
    return Response(status_code=204, headers={OFFSET: str(offset)})


@router.post("/uploads/{upload}/publish")
async def publish(upload: str, request: Request, access: AccessDep) -> VersionOut:
    """Verify what arrived and publish it under the next version number.

    While a draft is being verified, a second request to publish it is refused (request.under_way). Afterwards, a repeated
    request returns the outcome: the version, or the same refusal until a file of the draft changes. After a refusal, files that
    were verified are kept.
    """
    async with long_work.publishing(request, access.authenticate().owner):
        return await run_in_threadpool(_publish, access, upload)


def _publish(access: Access, upload: str) -> VersionOut:
    return VersionOut.of(publishing.publish(access.registry, access.authenticate(), upload))


def _target(access: Access, upload: str, path: str) -> tuple[str, str, int, int]:
    """Returns where the bytes of a file go. If more bytes can arrive, a recorded refusal of the draft is removed."""
    with access.read() as (uow, principal):
        target = drafts.place(uow, principal, upload, path)
        is_refused = drafts.is_refused(uow, principal, upload)
    if is_refused and target[3] < target[2]:
        run_with_retry(access.registry.write, lambda uow: drafts.forget_refusal(uow, principal, upload))
    return target
