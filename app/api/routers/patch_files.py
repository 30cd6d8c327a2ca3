"""/patches/{owner}/{patch}/versions/{n}/files: the bytes that were published."""

from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, StreamingResponse

from app.api.routers.patches import Number
from app.api.routing import api_router
from app.db.patches import PatchVersion
from app.http.access import AccessDep
from app.http.conditional import Span
from app.http.merged_response import BINARY, FOREIGN, Conditions, ConditionsDep, Reader, Target, respond
from app.services.artifacts.file_reads import Content
from app.services.artifacts.stored_files import patch_content
from app.services.patches import versions
from app.services.patches.tombstones import reread_if_purged
from app.services.tools import Tools

router = api_router(tags=["patches"])

REDIRECT = "Where the bytes lie in an object store, 307 to an address there that is good for an hour."


@router.head("/patches/{owner}/{patch}/versions/{number}/files/{path:path}", response_class=Response)
@router.get(
    "/patches/{owner}/{patch}/versions/{number}/files/{path:path}",
    response_class=StreamingResponse,
    responses={
        200: {"content": BINARY}, 206: {"content": BINARY}, 304: {"description": "Not modified"}, 307: {"description": REDIRECT}
    },
)  # fmt: skip
async def read_patch_file(
    owner: str,
    patch: str,
    number: Number,
    path: str,
    request: Request,
    access: AccessDep,
    conditions: ConditionsDep,
    redirect: Annotated[bool, Query(description="False: never answer with another address.")] = True,
) -> Response:
    """One file of a version, as it was published; its ETag is its sha256."""

    def read() -> Response:
        with access.read() as (uow, principal):
            version = versions.get(uow, principal, owner, patch, number)
        return _answer(access.registry.tools, version, path, request, conditions, Reader(principal), redirect)

    return await run_in_threadpool(reread_if_purged, read)


def _answer(
    tools: Tools, version: PatchVersion, path: str, request: Request, conditions: Conditions, reader: Reader, redirect: bool
) -> Response:  # fmt: skip
    digest, size = versions.file_of(version, path)
    headers, direct = {"Cache-Control": "private, immutable"}, tools.blobs.direct

    def content(wanted: Span) -> Content | Response:
        if redirect and direct is not None:
            to = {**headers, "ETag": f'"{digest}"'} | FOREIGN
            return RedirectResponse(direct.url(digest, path.rpartition("/")[2]), 307, to)
        return patch_content(tools.artifacts, version, path, digest, wanted.stop)

    return respond(request, conditions, Target(path, size, digest, headers), content, reader)
