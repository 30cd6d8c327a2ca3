"""/patches/{owner}/{patch}/versions/{n}/files: the bytes that were published."""

from typing import Annotated

from fastapi import Depends, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from app.api.routers.patches import Number
from app.api.routing import api_router
from app.db.patches import PatchVersion
from app.services import purges, versions
from app.services.uow import UnitOfWork
from app.wire.conditional import is_match
from app.wire.deps import BackendDep, PrincipalDep
from app.wire.reading import BINARY, FOREIGN, Conditions
from app.wire.stored import stored

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
    headers = {"Cache-Control": "private, immutable"}
    direct = uow.tools.blobs.direct
    if request.method == "GET" and redirect and direct is not None and not is_match(conditions.if_none_match, digest):
        to = {**headers, "ETag": f'"{digest}"'} | FOREIGN
        return RedirectResponse(direct.url(digest, path.rpartition("/")[2]), 307, to)
    return stored(request, conditions, path, digest, size, headers, lambda: uow.tools.library.open_file(version, path, digest))
