"""Families of base models. Only admins see a family until it is granted, see `app.services.access.grants`."""

from collections.abc import Sequence

from app.db import families as rows
from app.db.base import now
from app.db.families import Family
from app.domain.errors import DomainError
from app.domain.events.families import FamilyCreated
from app.domain.ids import new_id
from app.domain.names import check_name
from app.domain.principal import INSTALLATION, Principal
from app.services.access import grants
from app.services.unit_of_work import UnitOfWork


def create(uow: UnitOfWork, principal: Principal, name: str, description: str = "", readers: Sequence[str] = ()) -> Family:
    """Creates a family and grants it to `readers`, owners or `EVERYBODY`."""
    principal.require_admin()
    check_name(name, "a family")
    if rows.by_name(uow.session, name):
        raise DomainError("family.taken", family=name)
    family = Family(id=new_id("fam"), created_at=now(), name=name, owner=INSTALLATION, description=description)
    uow.add(family)
    uow.family_event(FamilyCreated(), principal, name)
    for reader in readers:
        grants.grant(uow, principal, family, reader)
    return family


def get(uow: UnitOfWork, principal: Principal, name: str) -> Family:
    """A family that the principal may see; others do not exist for it."""
    family = rows.by_name(uow.session, name)
    if family is None or not grants.is_visible(uow, principal, family.id):
        raise DomainError("family.unknown", family=name[:100])
    return family


def list_page(uow: UnitOfWork, principal: Principal, after: str | None, limit: int) -> Sequence[Family]:
    return rows.list_page(uow.session, principal.grantee, after, limit)
