"""Families of base models."""

from collections.abc import Sequence

from app.db import families as rows
from app.db.base import now
from app.db.families import Family
from app.domain.errors import DomainError
from app.domain.ids import new_id
from app.domain.names import check_name
from app.domain.principal import INSTALLATION, Principal
from app.services.uow import UnitOfWork


def create(uow: UnitOfWork, principal: Principal, name: str, description: str = "") -> Family:
    principal.require_admin()
    check_name(name, "a family")
    if rows.by_name(uow.session, name):
        raise DomainError("family.taken", family=name)
    family = Family(id=new_id("fam"), created_at=now(), name=name, owner=INSTALLATION, description=description)
    uow.add(family)
    uow.event("family.created", principal, INSTALLATION, name)
    return family


def get(uow: UnitOfWork, name: str) -> Family:
    family = rows.by_name(uow.session, name)
    if family is None:
        raise DomainError("family.unknown", family=name[:100])
    return family


def list_page(uow: UnitOfWork, after: str | None, limit: int) -> Sequence[Family]:
    return rows.list_page(uow.session, after, limit)
