"""/owners: what an owner has and may have."""

from fastapi import Response

from app.api.routing import api_router
from app.api.schemas.quotas import QuotaIn, UsageOut
from app.http.access import AccessDep
from app.http.deps import IfMatch, row_etag
from app.services.access import quotas

router = api_router(tags=["owners"])


@router.get("/owners/{owner}/usage")
def get_usage(owner: str, access: AccessDep, response: Response) -> UsageOut:
    """How much an owner has of everything that has a quota, and how much it may have."""
    with access.read() as (uow, principal):
        found = quotas.usage(uow, principal, owner)
        response.headers["ETag"] = row_etag(found)
        return UsageOut.of(found)


@router.put("/owners/{owner}/quota")
def set_quota(owner: str, body: QuotaIn, access: AccessDep, response: Response, expected: IfMatch) -> UsageOut:
    """Set limits of one owner. Those that are left out stay; null: as for all owners. Needs scope admin.

    What an owner has stays, also where it is more than it may have from now on.
    """
    with access.write() as (uow, principal):
        found = quotas.change(uow, principal, owner, body.changes(), expected)
        response.headers["ETag"] = row_etag(found)
        return UsageOut.of(found)
