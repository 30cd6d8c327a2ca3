"""/ports/{id}/files: the merged model, computed while it is read, on a worker where there is one."""

from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from app.api.routing import api_router
from app.api.schemas.ports import MergedFileOut, MergedFilesOut
from app.db.ports import Port
from app.http.access import AccessDep
from app.http.merged_files import Delegate, respond_merged
from app.http.merged_response import BINARY, ConditionsDep
from app.services.patches.tombstones import reread_if_purged
from app.services.ports import ports
from app.services.ports.merged_files import MergedFile, MergedModel

router = api_router(tags=["merged models"])

ANSWERS: dict[int | str, dict[str, object]] = {
    200: {"content": BINARY},
    206: {"content": BINARY},
    304: {"description": "Not modified"},
    307: {"description": "Read it at this address, on a worker, within five minutes; it needs no token, send none."},
}
Redirect = Annotated[
    bool, Query(description="Whether a read may be answered with the address of a worker; false: the bytes come from here.")
]


@router.get("/ports/{port}/files")
def list_files(port: str, access: AccessDep) -> MergedFilesOut:
    """The files of a merged model."""

    def read() -> tuple[Port, list[MergedFile]]:
        with access.read() as (uow, principal):
            row = ports.readable(uow, principal, port)
        return row, MergedModel(access.registry.tools.artifacts, row).files()

    row, files = reread_if_purged(read)
    return MergedFilesOut(
        port=row.id, fingerprint=row.fingerprint, total_bytes=sum(f.size for f in files),
        files=[MergedFileOut(path=f.path, size=f.size, etag=f.etag, sha256=f.sha256, computed=f.computed) for f in files],
    )  # fmt: skip


@router.head("/ports/{port}/files/{path:path}", response_class=Response)
@router.get("/ports/{port}/files/{path:path}", response_class=StreamingResponse, responses=ANSWERS)
async def read_file(
    port: str, path: str, request: Request, access: AccessDep, conditions: ConditionsDep, redirect: Redirect = True
) -> Response:  # fmt: skip
    """One file of a merged model: Range, If-Range, If-None-Match and HEAD as for a static file.

    Where workers read merged models, a file that must be computed is answered with 307 and a worker's address.
    """
    delegate: Delegate = "redirect" if redirect else "pass_through"

    def read() -> Response:
        with access.read() as (uow, principal):
            row = ports.readable(uow, principal, port)
        return respond_merged(request, conditions, access.registry, row, path, principal, delegate=delegate)

    return await run_in_threadpool(reread_if_purged, read)
