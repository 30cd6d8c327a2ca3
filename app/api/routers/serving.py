"""/ports/{id}/serving.json: which engines can serve a port, and how."""

from app.api.routing import api_router
from app.api.schemas.serving import ServingOut
from app.http.access import AccessDep
from app.services.patches.tombstones import reread_if_purged
from app.services.serving import serving_facts
from app.services.serving.serving_facts import Serving

router = api_router(tags=["ports"])


@router.get("/ports/{port}/serving.json")
def get_serving(port: str, access: AccessDep) -> ServingOut:
    """Say which engines can serve a port, in which mode, why not, and what to start them with.

    Addresses are names of the Hub protocol, with the commits that they stand for now.
    """

    def read() -> Serving:
        with access.read() as (uow, principal):
            found = serving_facts.find(uow, principal, port)
        return serving_facts.describe(access.registry, found)

    return ServingOut.of(reread_if_purged(read))
