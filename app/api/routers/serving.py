"""/ports/{id}/serving.json: which engines can serve a port, and how."""

from functools import partial

from app.api.routing import api_router
from app.api.schemas.serving import ServingOut
from app.domain.errors import DomainError
from app.http.access import AccessDep
from app.services.hubview import snapshots
from app.services.patches.tombstones import reread_if_purged
from app.services.serving import serving_facts
from app.services.serving.serving_facts import Serving
from app.services.unit_of_work import run_with_retry

router = api_router(tags=["ports"])

ATTEMPTS = 3


@router.get("/ports/{port}/serving.json")
def get_serving(port: str, access: AccessDep) -> ServingOut:
    """Say which engines can serve a port, in which mode, why not, and what to start them with.

    Addresses are names of the Hub protocol, with the commits that they stand for now.
    """

    def read() -> Serving:
        with access.read() as (uow, principal):
            found = serving_facts.find(uow, principal, port)
        return serving_facts.describe(access.registry.tools.artifacts, found)

    for _ in range(ATTEMPTS):
        found = reread_if_purged(read)
        if not found.to_write:
            return ServingOut.of(found)
        for drawn in found.to_write:
            run_with_retry(access.registry.write, partial(snapshots.keep, drawn=drawn))
    raise DomainError("database.collision")
