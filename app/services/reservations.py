"""Room for bytes that arrive: they count against their owner's quota from before the first of them until they are recorded.

A reservation is a row, so that it holds on all replicas. One whose process died is swept when its staged bytes are.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial

from app.db import pushes as rows
from app.db.base import clock
from app.db.pushes import FILE, RESERVED, PushedObject
from app.domain.errors import DomainError
from app.domain.ids import new_id
from app.domain.principal import Principal
from app.domain.repositories import Repository
from app.services import objects
from app.services.objects import owner_of, require_push
from app.services.quotas import open_account
from app.services.uow import UnitOfWork, settle

Begin = Callable[[], AbstractContextManager[UnitOfWork]]


def reserve(uow: UnitOfWork, principal: Principal, repository: Repository, size: int) -> str:
    """Reserves bytes for what is sent to a repository; the reservation's id.

    Raises:
        DomainError: quota.exceeded, and what `require_push` raises.
    """
    require_push(principal, repository)
    open_account(uow, owner_of(repository), "bytes").charge(bytes=size)
    row = PushedObject(
        id=new_id("obj"), created_at=clock(uow.session), owner=owner_of(repository), repository=repository.full_name,
        kind=RESERVED, digest="", size=size, charged=size, session=None, staged=None, multipart=None,
    )  # fmt: skip
    uow.add(row)
    return row.id


def reserve_file(uow: UnitOfWork, principal: Principal, repository: Repository, sha256: str, size: int) -> str | None:
    """Reserves the bytes of a file; None where it was sent to the repository already.

    Raises:
        DomainError: as `reserve`.
    """
    require_push(principal, repository)
    if objects.has(uow, repository.full_name, sha256, size):
        return None
    return reserve(uow, principal, repository, size)


def reservation(uow: UnitOfWork, ident: str) -> PushedObject:
    """A reservation, locked: the caller makes it the row of what arrived, or shrinks it.

    Raises:
        DomainError: upload.unknown, where it was swept.
    """
    row = rows.pushed(uow.session, ident)
    if row is None or row.kind != RESERVED:
        raise DomainError("upload.unknown", upload=ident)
    open_account(uow, row.owner, "bytes")  # always before a row is locked
    uow.lock(row)
    return row


def shrink(uow: UnitOfWork, ident: str, size: int) -> None:
    """Gives back so many bytes of a reservation, or all of it where it has less.

    Raises:
        DomainError: upload.unknown.
    """
    row = reservation(uow, ident)
    row.charged -= min(row.charged, size)
    uow.session.flush()


def record(uow: UnitOfWork, ident: str, kind: str, digest: str, size: int, staged: str, session: str | None = None) -> None:
    """Makes a reservation the row of the bytes that arrived; only those count from now on.

    Raises:
        DomainError: upload.unknown; quota.exceeded, where more arrived than was reserved.
    """
    row = reservation(uow, ident)
    if size > row.charged:
        open_account(uow, row.owner, "bytes").charge(bytes=size - row.charged)
    row.kind, row.digest, row.size, row.charged, row.staged, row.session = kind, digest, size, size, staged, session
    uow.session.flush()


def record_file(uow: UnitOfWork, ident: str, sha256: str, size: int, staged: str) -> None:
    """Makes a reservation a file that was staged and hashed here; the same again is the same.

    Raises:
        DomainError: upload.unknown, quota.exceeded.
    """
    row = reservation(uow, ident)
    if objects.has(uow, row.repository, sha256, size):
        uow.after_commit(partial(uow.tools.blobs.discard, staged))
        release(uow, ident)
    else:
        record(uow, ident, FILE, sha256, size, staged)


def release(uow: UnitOfWork, ident: str) -> None:
    """Gives back what is left of a reservation; nothing where it was recorded."""
    rows.remove_reservation(uow.session, ident)


def give_back(begin: Begin, ident: str) -> None:
    """`release` in a transaction of its own. Where the database is away the sweep does it: the caller has a reason to tell."""
    with suppress(DomainError):
        settle(begin, lambda uow: release(uow, ident))
