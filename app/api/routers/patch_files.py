"""/patches/{owner}/{patch}/versions/{n}/files: the bytes that were published."""

import mimetypes
from collections.abc import Generator
from contextlib import ExitStack
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from app.api.routers.patches import Number
from app.api.routing import api_router
from app.core.source import Source, read_range
from app.db.patches import PatchVersion
from app.services import purges, versions
from app.services.uow import UnitOfWork
from app.wire.conditional import Span, is_match, span
from app.wire.deps import BackendDep, PrincipalDep
from app.wire.reading import BINARY, FOREIGN, Conditions, MergedResponse

router = api_router(tags=["patches"])

PIECE_BYTES = 2**20
REDIRECT = "Where the bytes lie in an object store, 307 to an address there that is good for an hour."


@router.head("/patches/{owner}/{patch}/versions/{number}/files/{path:path}", response_class=Response)
@router.get(
    "/patches/{owner}/{patch}/versions/{number}/files/{path:path}",
    response_class=StreamingResponse,
    responses={
        200: {"content": BINARY}, 206: {"content": BINARY}, 304: {"description": "Not modified"}, 307: {"description": REDIRECT}
    },
)  # fmt: skip
def read_patch_file(
    owner: str,
    patch: str,
    number: Number,
    path: str,
    request: Request,
    backend: BackendDep,
    principal: PrincipalDep,
    conditions: Annotated[Conditions, Depends()],
    redirect: Annotated[bool, Query(description="False: never answer with another address.")] = True,
) -> Response:
    """One file of a version, as it was published; its ETag is its sha256."""

    def read() -> Response:
        with backend.read() as uow:
            version = versions.get(uow, principal, owner, patch, number)
            return _answer(uow, version, path, request, conditions, redirect)

    return purges.again(read)


def _answer(
    uow: UnitOfWork, version: PatchVersion, path: str, request: Request, conditions: Conditions, redirect: bool
) -> Response:  # fmt: skip
    digest, size = versions.file_of(version, path)
    headers = {"ETag": f'"{digest}"', "Cache-Control": "private, immutable"} | FOREIGN
    if is_match(conditions.if_none_match, digest):
        return Response(status_code=304, headers=headers)
    blobs = uow.tools.blobs
    if request.method == "GET" and redirect and blobs.direct is not None:
        return RedirectResponse(blobs.direct.url(digest, path.rpartition("/")[2]), 307, headers)
    wanted = span(conditions.range, conditions.if_range, digest, size, path)
    media_type = mimetypes.guess_type(path)[0] or "application/octet-stream"
    status, headers = 206 if wanted.partial else 200, headers | wanted.headers()
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=media_type)
    with ExitStack() as stack:
        source = stack.enter_context(uow.tools.library.open_file(version, path, digest))
        body = _read(stack.pop_all(), source, path, wanted)
    return MergedResponse(body, status, headers, media_type)


def _read(stack: ExitStack, source: Source, path: str, wanted: Span) -> Generator[memoryview, None, None]:
    with stack:
        for start in range(wanted.start, wanted.stop, PIECE_BYTES):
            yield memoryview(read_range(source, path, start, min(PIECE_BYTES, wanted.stop - start)))
