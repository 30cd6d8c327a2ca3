"""Family grants: which owners may see a family of base models. Without a grant only admins see it."""

from collections.abc import Sequence

from app.db import families as rows
from app.db.base import now
from app.db.families import EVERYBODY, Family, FamilyGrant
from app.domain.errors import DomainError
from app.domain.events.families import FamilyGranted, FamilyWithdrawn
from app.domain.ids import new_id
from app.domain.names import check_owner
from app.domain.principal import Principal
from app.services.unit_of_work import UnitOfWork


def is_visible(uow: UnitOfWork, principal: Principal, family_id: str) -> bool:
    """Returns whether the principal may see a family."""
    return principal.is_admin or rows.is_visible(uow.session, family_id, principal.owner)


def grant(uow: UnitOfWork, principal: Principal, family: Family, owner: str) -> FamilyGrant:
    """Grants a family to an owner, or to `EVERYBODY`; idempotent."""
    principal.require_admin()
    if owner != EVERYBODY:
        check_owner(owner)
    found = rows.grant(uow.session, family.id, owner)
    if found is None:
        found = FamilyGrant(id=new_id("grt"), created_at=now(), family_id=family.id, owner=owner)
        uow.add(found)
        _record(uow, FamilyGranted(to=owner), principal, family.name)
    return found


def withdraw(uow: UnitOfWork, principal: Principal, family: Family, owner: str) -> None:
    """Withdraws a grant at once: models merged with the family's releases are no longer served to the owner either.

    Raises:
        DomainError: family.grant, if there is no such grant.
    """
    principal.require_admin()
    found = rows.grant(uow.session, family.id, owner)
    if found is None:
        raise DomainError("family.grant", family=family.name, owner=owner[:100])
    uow.session.delete(found)
    uow.session.flush()
    _record(uow, FamilyWithdrawn(to=owner), principal, family.name)


def of_family(uow: UnitOfWork, principal: Principal, family: Family) -> Sequence[FamilyGrant]:
    """Returns the grants of a family."""
    principal.require_admin()
    return rows.grants(uow.session, family.id)


def _record(uow: UnitOfWork, event: FamilyGranted | FamilyWithdrawn, principal: Principal, name: str) -> None:
    """Records the event of a grant for the owner that the grant concerns, so that other readers of the family do not learn its
    name.
    """
    if event.to == EVERYBODY:
        uow.family_event(event, principal, name)
    else:
        uow.event(event, principal, event.to, name)
