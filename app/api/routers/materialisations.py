"""/ports/{id}/materialise and /materialisations: merged models written to a place of somebody's own."""

from fastapi import Response

from app.api.routing import api_router
from app.api.schemas.base import Listing
from app.api.schemas.materialisations import MaterialisationOut, MaterialiseIn
from app.http.deps import OnceDep, PageDep, PrincipalDep, ReadUnit, row_etag
from app.http.single_hop import at_once
from app.services.ports import materialisations
from app.services.unit_of_work import UnitOfWork

router = api_router(tags=["materialisations"])


@router.post("/ports/{port}/materialise", status_code=202, response_model=MaterialisationOut)
def materialise(port: str, body: MaterialiseIn, once: OnceDep, principal: PrincipalDep) -> object:
    """Write a merged model to S3, by a job. The same place again returns what is there (200); a failed one is begun again.

    Bytes that the patch does not touch are copied inside S3 where the release lies there too.
    """

    def make(uow: UnitOfWork) -> tuple[int, MaterialisationOut, str]:
        row, started = materialisations.request(uow, principal, port, body.to)
        return 202 if started else 200, MaterialisationOut.of(row), f"/api/v1/materialisations/{row.id}"

    return once(make)


@router.get("/ports/{port}/materialisations")
@at_once
def list_materialisations(port: str, uow: ReadUnit, page: PageDep, principal: PrincipalDep) -> Listing[MaterialisationOut]:
    """Where a merged model was written, newest first."""
    rows, cursor = page.cut(materialisations.list_page(uow, principal, port, page.after, page.limit))
    return Listing(items=[MaterialisationOut.of(r) for r in rows], next_cursor=cursor)


@router.get("/materialisations/{materialisation}")
@at_once
def get_materialisation(materialisation: str, uow: ReadUnit, response: Response, principal: PrincipalDep) -> MaterialisationOut:
    """One materialisation."""
    row = materialisations.get(uow, principal, materialisation)
    response.headers["ETag"] = row_etag(row)
    return MaterialisationOut.of(row)
