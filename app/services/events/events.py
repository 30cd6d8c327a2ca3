"""Events, restricted to what each reader may see."""

from collections.abc import Sequence

from app.db import events as rows
from app.db.events import Event
from app.domain.principal import INSTALLATION, Principal
from app.services.unit_of_work import UnitOfWork


def after(uow: UnitOfWork, principal: Principal, cursor: int, limit: int) -> Sequence[Event]:
    """Returns the events after a cursor, oldest first: the principal's own and those of the families that it may see.

    An admin sees all.
    """
    return rows.after(uow.session, cursor, principal.grantee, limit)


def audit(uow: UnitOfWork, principal: Principal, cursor: int, limit: int) -> Sequence[Event]:
    """Returns the audit trail after a cursor: the events of the principal's owner, for an admin those of all owners.

    Raises:
        DomainError: token.scope, unless the principal is an operator.
    """
    principal.require_operate(principal.owner)
    return rows.after(uow.session, cursor, principal.grantee, limit, with_families=False)


def actor_of(event: Event, for_admin: bool) -> str:
    """Returns the owner that acted. For a family's event only admins learn it, as an admin's token may belong to any owner."""
    return event.actor if for_admin or event.family is None else INSTALLATION
