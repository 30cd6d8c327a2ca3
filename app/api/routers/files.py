"""/ports/{id}/files: the merged model, computed while it is read, on a worker where there is one."""

from functools import partial
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from app.api.routing import api_router
from app.api.schemas.ports import MergedFileOut, MergedFilesOut
from app.db.ports import Port
from app.services import merged, ports, purges, workers
from app.services.merged import MergedFile
from app.services.uow import UnitOfWork
from app.wire.deps import BackendDep, PrincipalDep
from app.wire.reading import BINARY, Body, Conditions, Wanted, answer
from app.wire.visits import AccessDep, at_once

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
@at_once
def list_files(port: str, access: AccessDep) -> MergedFilesOut:
    """The files of a merged model."""

    def read() -> tuple[Port, list[MergedFile]]:
        with access.read() as (uow, principal):
            row = ports.readable(uow, principal, port)
            return row, merged.files(uow, row)

    row, files = purges.again(read)
    return MergedFilesOut(
        port=row.id, fingerprint=row.fingerprint, total_bytes=sum(f.size for f in files),
        files=[MergedFileOut(path=f.path, size=f.size, etag=f.etag, sha256=f.sha256, computed=f.computed) for f in files],
    )  # fmt: skip


@router.head("/ports/{port}/files/{path:path}", response_class=Response)
@router.get("/ports/{port}/files/{path:path}", response_class=StreamingResponse, responses=ANSWERS)
def read_file(
    port: str,
    path: str,
    request: Request,
    backend: BackendDep,
    principal: PrincipalDep,
    conditions: Annotated[Conditions, Depends()],
    redirect: Redirect = True,
) -> Response:
    """One file of a merged model: Range, If-Range, If-None-Match and HEAD as for a static file.

    Where workers read merged models, a file that must be computed is answered with 307 and a worker's address.
    """

    def on_a_worker(uow: UnitOfWork, wanted: Wanted) -> Response | Body | None:
        reader = workers.choose(backend.readers(), wanted.port.fingerprint) if wanted.file.computed else None
        if reader is None:
            return None
        url = workers.signed_url(uow, reader, wanted.port.id, path)
        if redirect:
            return RedirectResponse(url, 307, headers={"Cache-Control": "no-store"})
        return backend.handed_over.read(url, conditions.passed_on(), wanted.span.length)

    def read() -> Response:
        with backend.read() as uow:
            row = ports.readable(uow, principal, port)
            return answer(backend, uow, row, path, request, conditions, partial(on_a_worker, uow))

    return purges.again(read)
