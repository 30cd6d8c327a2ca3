"""Quota reservations: bytes count against their owner's quota before the first one is received, until they are recorded.

A reservation is a database row, so that it is valid on all replicas. If its process dies, the sweep removes the reservation
together with the staged bytes.
"""

from contextlib import suppress

from app.db import pushes as rows
from app.db.pushes import RESERVED, PushedObject
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import Repository
from app.services.access.quotas import open_account
from app.services.unit_of_work import Begin, UnitOfWork, run_with_retry
from app.services.uploads.pushed_objects import add, owner_of, require_push


def reserve(uow: UnitOfWork, principal: Principal, repository: Repository, size: int) -> str:
    """Reserves bytes for an upload to a repository; returns the reservation's id.

    Raises:
        DomainError: quota.exceeded, and the errors of `require_push`.
    """
    require_push(principal, repository)
    open_account(uow, owner_of(repository), "bytes").charge(bytes=size)
    return add(uow, repository, "", size, kind=RESERVED).id


def reservation(uow: UnitOfWork, ident: str) -> PushedObject:
    """Returns a reservation with its row locked; the caller turns it into the row of the received bytes, or shrinks it.

    Raises:
        DomainError: upload.unknown, if it was swept.
    """
    row = rows.pushed(uow.session, ident)
    if row is None or row.kind != RESERVED:
        raise DomainError("upload.unknown", upload=ident)
    open_account(uow, row.owner, "bytes")  # lock order: always before the row
    uow.lock(row)
    return row


def shrink(uow: UnitOfWork, ident: str, size: int) -> None:
    """Releases `size` bytes of a reservation, or all of it if it has fewer.

    Raises:
        DomainError: upload.unknown.
    """
    row = reservation(uow, ident)
    row.charged -= min(row.charged, size)
    uow.session.flush()


def record(uow: UnitOfWork, ident: str, kind: str, digest: str, size: int, staged: str, session: str | None = None) -> None:
    """Turns a reservation into the row of the received bytes; only those count from now on.

    Raises:
        DomainError: upload.unknown; quota.exceeded, if more bytes arrived than were reserved.
    """
    row = reservation(uow, ident)
    if size > row.charged:
        open_account(uow, row.owner, "bytes").charge(bytes=size - row.charged)
    row.kind, row.digest, row.size, row.charged, row.staged, row.session = kind, digest, size, size, staged, session
    uow.session.flush()


def release(uow: UnitOfWork, ident: str) -> None:
    """Releases the rest of a reservation; does nothing if it was recorded."""
    rows.remove_reservation(uow.session, ident)


def give_back(begin: Begin, ident: str) -> None:
    """Calls `release` in its own transaction. If the database does not answer, the sweep releases it later; no error is raised,
    because the caller is already reporting one.
    """
    with suppress(DomainError):
        run_with_retry(begin, lambda uow: release(uow, ident))
