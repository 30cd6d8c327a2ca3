"""/families/{family}/aliases: what others call a base."""

from app.api.routing import api_router
from app.api.schemas.base import Listing
from app.api.schemas.base_aliases import BaseAliasIn, BaseAliasOut
from app.domain.principal import Principal
from app.http.access import AccessDep
from app.http.deps import OnceDep, PageDep
from app.services.catalog import base_aliases
from app.services.unit_of_work import UnitOfWork

router = api_router(tags=["families and releases"])


@router.post("/families/{family}/aliases", status_code=201, response_model=BaseAliasOut)
def add_base_alias(family: str, body: BaseAliasIn, once: OnceDep) -> object:
    """Say what others call a family or one of its releases. Needs scope admin.

    A patch that is pushed or imported tells by such a name what it was trained on: an upstream repository, a quantised mirror
    of it, a renamed one. The same again returns what is there (200).
    """

    def make(uow: UnitOfWork, principal: Principal) -> tuple[int, BaseAliasOut, str]:
        row, is_new = base_aliases.add(uow, principal, family, body.name, body.revision, body.release)
        return 201 if is_new else 200, BaseAliasOut.of(row), f"/api/v1/families/{family}/aliases"

    return once(make)


@router.get("/families/{family}/aliases")
def list_aliases(family: str, access: AccessDep, page: PageDep) -> Listing[BaseAliasOut]:
    """What others call a family and its releases, newest first."""
    with access.read() as (uow, principal):
        rows, cursor = page.cut(base_aliases.list_page(uow, principal, family, page.after, page.limit))
        return Listing(items=[BaseAliasOut.of(r) for r in rows], next_cursor=cursor)


@router.delete("/families/{family}/aliases/{alias}")
def remove_base_alias(family: str, alias: str, access: AccessDep) -> BaseAliasOut:
    """Forget such a name, by its id; what was published by it stays. Needs scope admin."""
    with access.write() as (uow, principal):
        return BaseAliasOut.of(base_aliases.remove(uow, principal, family, alias))
