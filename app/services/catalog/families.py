"""Families of base models, and who may see them: nobody but admins, until they are granted to an owner or to everybody."""

from collections.abc import Sequence

from app.db import families as rows
from app.db.base import now
from app.db.families import EVERYBODY, Family, FamilyGrant
from app.domain.errors import DomainError
from app.domain.ids import new_id
from app.domain.names import check_name, check_owner
from app.domain.principal import INSTALLATION, Principal
from app.services.unit_of_work import UnitOfWork


def create(uow: UnitOfWork, principal: Principal, name: str, description: str = "", readers: Sequence[str] = ()) -> Family:
    """Creates a family and grants it to `readers`, owners or `EVERYBODY`."""
    principal.require_admin()
    check_name(name, "a family")
    if rows.by_name(uow.session, name):
        raise DomainError("family.taken", family=name)
    family = Family(id=new_id("fam"), created_at=now(), name=name, owner=INSTALLATION, description=description)
    uow.add(family)
    uow.family_event("family.created", principal, name)
    for reader in readers:
        grant(uow, principal, name, reader)
    return family


def get(uow: UnitOfWork, principal: Principal, name: str) -> Family:
    """A family that the principal may see; others do not exist for it."""
    family = rows.by_name(uow.session, name)
    if family is None or not is_visible(uow, principal, family.id):
        raise DomainError("family.unknown", family=name[:100])
    return family


def is_visible(uow: UnitOfWork, principal: Principal, family_id: str) -> bool:
    return principal.is_admin or rows.is_visible(uow.session, family_id, principal.owner)


def list_page(uow: UnitOfWork, principal: Principal, after: str | None, limit: int) -> Sequence[Family]:
    return rows.list_page(uow.session, reader_of(principal), after, limit)


def reader_of(principal: Principal) -> str | None:
    """Whose grants decide what lists show; None for an admin, who sees everything."""
    return None if principal.is_admin else principal.owner


def grant(uow: UnitOfWork, principal: Principal, name: str, owner: str) -> FamilyGrant:
    """Lets an owner, or `EVERYBODY`, see a family; again, it changes nothing."""
    principal.require_admin()
    family = get(uow, principal, name)
    if owner != EVERYBODY:
        check_owner(owner)
    found = rows.grant(uow.session, family.id, owner)
    if found is None:
        found = FamilyGrant(id=new_id("grt"), created_at=now(), family_id=family.id, owner=owner)
        uow.add(found)
        _tell(uow, "family.granted", principal, name, owner)
    return found


def withdraw(uow: UnitOfWork, principal: Principal, name: str, owner: str) -> None:
    """Takes a grant back, at once: models merged with the family's releases are not handed out any more either.

    Raises:
        DomainError: family.grant, when there is none.
    """
    principal.require_admin()
    family = get(uow, principal, name)
    found = rows.grant(uow.session, family.id, owner)
    if found is None:
        raise DomainError("family.grant", family=name, owner=owner[:100])
    uow.session.delete(found)
    uow.session.flush()
    _tell(uow, "family.withdrawn", principal, name, owner)


def grants(uow: UnitOfWork, principal: Principal, name: str) -> Sequence[FamilyGrant]:
    principal.require_admin()
    return rows.grants(uow.session, get(uow, principal, name).id)


def _tell(uow: UnitOfWork, kind: str, principal: Principal, name: str, owner: str) -> None:
    """Records the event of a grant for the owner that the grant concerns, so that other readers of the family do not learn its
    name.
    """
    if owner == EVERYBODY:
        uow.family_event(kind, principal, name, to=owner)
    else:
        uow.event(kind, principal, owner, name, to=owner)
