"""What happened."""

from collections.abc import Sequence

from app.db import events as rows
from app.db.events import Event
from app.domain.principal import INSTALLATION, Principal
from app.services.uow import UnitOfWork


def after(uow: UnitOfWork, principal: Principal, cursor: int, limit: int) -> Sequence[Event]:
    """Events later than a cursor, oldest first: one's own and the installation's; an admin sees all."""
    owners = None if principal.is_admin else (principal.owner, INSTALLATION)
    return rows.after(uow.session, cursor, owners, limit)


def audit(uow: UnitOfWork, principal: Principal, cursor: int, limit: int) -> Sequence[Event]:
    """The same with who did it, by which token and from where: for operators what concerns their owner, for admins all."""
    principal.require_operate(principal.owner)
    owners = None if principal.is_admin else (principal.owner,)
    return rows.after(uow.session, cursor, owners, limit)
