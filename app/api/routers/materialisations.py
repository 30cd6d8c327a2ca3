"""/ports/{id}/materialise and /materialisations: merged models written to a place of somebody's own."""

from fastapi import Response

from app.api.routing import api_router
from app.api.schemas.base import Listing
from app.api.schemas.materialisations import MaterialisationOut, MaterialiseIn
from app.domain.principal import Principal
from app.http.access import AccessDep
from app.http.deps import OnceDep, PageDep, row_etag
from app.services.ports import materialisations
from app.services.unit_of_work import UnitOfWork

router = api_router(tags=["materialisations"])


@router.post("/ports/{port}/materialise", status_code=202, response_model=MaterialisationOut)
def materialise(port: str, body: MaterialiseIn, once: OnceDep) -> object:
    """Write a merged model to S3, by a job. The same place again returns what is there (200); a failed one is begun again.

    Bytes that the patch does not touch are copied inside S3 where the release lies there too.
    """

    def make(uow: UnitOfWork, principal: Principal) -> tuple[int, MaterialisationOut, str]:
        row, started = materialisations.request(uow, principal, port, body.to)
        return 202 if started else 200, MaterialisationOut.of(row), f"/api/v1/materialisations/{row.id}"

    return once(make)


@router.get("/ports/{port}/materialisations")
def list_materialisations(port: str, access: AccessDep, page: PageDep) -> Listing[MaterialisationOut]:
    """Where a merged model was written, newest first."""
    with access.read() as (uow, principal):
        rows, cursor = page.cut(materialisations.list_page(uow, principal, port, page.after, page.limit))
        return Listing(items=[MaterialisationOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/materialisations/{materialisation}")
def get_materialisation(materialisation: str, access: AccessDep, response: Response) -> MaterialisationOut:
    """One materialisation."""
    with access.read() as (uow, principal):
        row = materialisations.get(uow, principal, materialisation)
        response.headers["ETag"] = row_etag(row)
        return MaterialisationOut.of(row)
