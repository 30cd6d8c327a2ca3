"""What happened."""

from collections.abc import Sequence

from app.db import events as rows
from app.db.events import Event
from app.domain.principal import Principal
from app.services.families import reader_of
from app.services.uow import UnitOfWork


def after(uow: UnitOfWork, principal: Principal, cursor: int, limit: int) -> Sequence[Event]:
    """Events later than a cursor, oldest first: one's own, and those of families that one may see; an admin sees all."""
    return rows.after(uow.session, cursor, reader_of(principal), limit)


def audit(uow: UnitOfWork, principal: Principal, cursor: int, limit: int) -> Sequence[Event]:
    """The same with who did it, by which token and from where: for operators what concerns their owner, for admins all."""
    principal.require_operate(principal.owner)
    return rows.after(uow.session, cursor, reader_of(principal), limit, with_families=False)
