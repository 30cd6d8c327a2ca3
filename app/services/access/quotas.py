"""Quotas: asked in the transaction that adds, for one owner in one transaction at a time."""

from dataclasses import dataclass

from app.db import quotas as rows
from app.db.locks import advisory_lock
from app.db.quotas import OwnerQuota
from app.domain.errors import DomainError
from app.domain.events.access import QuotaChanged
from app.domain.names import check_owner
from app.domain.principal import Principal
from app.domain.quotas import KINDS, Kind, Quota
from app.services.unit_of_work import UnitOfWork


@dataclass(frozen=True)
class Usage:
    """What an owner has and may have, and the row version of what was set for it (0: nothing was)."""

    owner: str
    used: dict[Kind, int]
    quota: Quota
    own: dict[Kind, int | None]
    row_version: int


class Account:
    """The quotas of one owner in a transaction that may add; see `open_account`."""

    def __init__(self, uow: UnitOfWork, owner: str, quota: Quota) -> None:
        self._uow, self._owner, self._quota = uow, owner, quota

    def charge(self, **asked: int) -> None:
        """Lets so much be added of each kind.

        Raises:
            DomainError: quota.exceeded.
        """
        kinds: dict[Kind, int] = {kind: asked[kind] for kind in KINDS if kind in asked}
        for kind, more in kinds.items():
            limit = self._quota.of(kind)
            if limit and (used := _used(self._uow, self._owner, kind)) + more > limit:
                raise DomainError(
                    "quota.exceeded", owner=self._owner, kind=kind, what=KINDS[kind], used=used, limit=limit, asked=more
                )


def open_account(uow: UnitOfWork, owner: str, *kinds: Kind) -> Account:
    """Called before it is looked whether something is there that this transaction may add.

    Where the owner has a quota for one of the kinds, it waits until no other transaction adds for this owner. It is asked
    before any row is locked, so that nobody who waits here holds what the other waits for.
    """
    quota = _quota(uow, owner)[0]
    if any(map(quota.of, kinds)):
        advisory_lock(uow.session, f"portllm:quota:{owner}")
    return Account(uow, owner, quota)


def require_room(uow: UnitOfWork, owner: str, **asked: int) -> None:
    """Says early what `Account.charge` would say, for what has costly preparations; another may still be first.

    Raises:
        DomainError: quota.exceeded.
    """
    Account(uow, owner, _quota(uow, owner)[0]).charge(**asked)


def room(uow: UnitOfWork, owner: str, kind: Kind) -> tuple[int, int] | None:
    """How much an owner has of a kind, and may have; None where there is no limit. For what is asked about elsewhere."""
    limit = _quota(uow, owner)[0].of(kind)
    return (_used(uow, owner, kind), limit) if limit else None


def usage(uow: UnitOfWork, principal: Principal, owner: str) -> Usage:
    """What an owner has and may have.

    Raises:
        DomainError: owner.unknown, for whoever may not read what is the owner's.
    """
    _require_visible(principal, owner)
    quota, row = _quota(uow, owner)
    used = {kind: _used(uow, owner, kind) for kind in KINDS}
    own = row.own() if row else dict.fromkeys(KINDS)
    return Usage(owner, used, quota, own, row.row_version if row else 0)


def change(
    uow: UnitOfWork, principal: Principal, owner: str, changes: dict[Kind, int | None], expected: int | None = None
) -> Usage:
    """Sets quotas of one owner; None: as for all again. What an owner has already stays, however little it may have now.

    Raises:
        DomainError: owner.unknown, token.scope, request.name, request.changed.
    """
    _require_visible(principal, owner)
    principal.require_admin()
    advisory_lock(uow.session, f"portllm:quota:{owner}")
    row = rows.find(uow.session, owner)
    if expected is not None and expected != (row.row_version if row else 0):
        raise DomainError("request.changed", what=f"The quota of {owner}")
    if row is None:
        row = OwnerQuota(owner=owner, row_version=0)
        uow.add(row)
    before = row.own()
    changed = {kind: limit for kind, limit in changes.items() if limit != before[kind]}
    for kind, limit in changed.items():
        setattr(row, kind, limit)
    if changed:
        row.row_version += 1
        uow.event(QuotaChanged(limits=changed), principal, owner, owner)
    uow.session.flush()
    return usage(uow, principal, owner)


def _require_visible(principal: Principal, owner: str) -> None:
    if not principal.can_read(owner):
        raise DomainError("owner.unknown", owner=owner[:100])
    check_owner(owner)


def _quota(uow: UnitOfWork, owner: str) -> tuple[Quota, OwnerQuota | None]:
    """What holds for an owner, and what was set for it."""
    row, default = rows.find(uow.session, owner), uow.tools.limits.quota
    return (default.overridden(row.own()) if row else default), row


def _used(uow: UnitOfWork, owner: str, kind: Kind) -> int:
    if kind == "jobs":
        return uow.tools.jobs.waiting(uow.session, owner)
    return rows.used(uow.session, owner, kind)
