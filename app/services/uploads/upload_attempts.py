"""Attempts to upload an object: one at a time, so that no more bytes are staged than were announced.

The process that receives an object holds a lease on it, timed by the database's clock, and renews it while bytes arrive. If the
process dies, the lease expires and another attempt may begin.
"""

import datetime as dt
from dataclasses import dataclass
from functools import partial

from app.db.base import clock
from app.db.pushes import PushedObject
from app.domain.errors import DomainError
from app.services.unit_of_work import UnitOfWork
from app.services.uploads.pushed_objects import expected

LEASE = dt.timedelta(seconds=60)
RENEW_SECONDS = 20.0


@dataclass(frozen=True)
class AttemptTarget:
    """The object that an attempt must upload: size in bytes, sha256 in hex; `is_there` if an earlier attempt completed it."""

    size: int
    digest: str
    is_there: bool


def begin(uow: UnitOfWork, ident: str, upload: str) -> AttemptTarget:
    """Begins an attempt, staged as `upload`; discards what an attempt with an expired lease left behind.

    Raises:
        DomainError: upload.unknown; upload.under_way, while another attempt holds the lease.
    """
    row = expected(uow, ident)
    uow.lock(row)
    if row.is_verified:
        return AttemptTarget(row.size, row.digest, is_there=True)
    present = clock(uow.session)
    if row.attempt and row.attempt_until and row.attempt_until > present:
        raise DomainError("upload.under_way", path=row.digest)
    if row.attempt:
        uow.after_commit(partial(uow.tools.blobs.discard, row.attempt))
    row.attempt, row.attempt_until = upload, present + LEASE
    return AttemptTarget(row.size, row.digest, is_there=False)


def renew(uow: UnitOfWork, ident: str, upload: str) -> None:
    """Renews the lease of an attempt, unless another attempt has taken over.

    Raises:
        DomainError: upload.unknown.
    """
    row = _locked(uow, ident)
    if row.attempt == upload:
        row.attempt_until = clock(uow.session) + LEASE


def arrive(uow: UnitOfWork, ident: str, upload: str) -> None:
    """Records that an attempt staged the whole object, and that its bytes were hashed here.

    Raises:
        DomainError: upload.unknown; upload.under_way, if another attempt has taken over and has not completed yet.
    """
    row = _locked(uow, ident)
    if row.is_verified:
        uow.after_commit(partial(uow.tools.blobs.discard, upload))
        return
    if row.attempt != upload:
        raise DomainError("upload.under_way", path=row.digest)
    row.staged, row.multipart, row.attempt, row.attempt_until = upload, None, None, None


def end(uow: UnitOfWork, ident: str, upload: str) -> None:
    """Ends a failed attempt, so that the next one need not wait for its lease to expire.

    Raises:
        DomainError: upload.unknown.
    """
    row = _locked(uow, ident)
    if row.attempt == upload:
        row.attempt = row.attempt_until = None


def _locked(uow: UnitOfWork, ident: str) -> PushedObject:
    row = expected(uow, ident)
    uow.lock(row)
    return row
