"""Bytes that are sent to a repository before a commit names them: who may name which, and when they count.

Naming a digest gives nothing: what a commit names must have been sent to the same repository, or be part of what it has already.
"""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from app.blobs.s3.direct import part_bytes
from app.blobs.store import BlobStore
from app.db import pushes as rows
from app.db.base import clock
from app.db.pushes import FILE, PushedObject
from app.domain.errors import DomainError
from app.domain.ids import new_id
from app.domain.principal import INSTALLATION, Principal
from app.domain.repositories import Repository
from app.services.access.quotas import open_account
from app.services.unit_of_work import UnitOfWork

PUSHED = "0"  # the name of the one file that an upload of a push holds
# Below this, a client that can is sent to the registry: a multipart upload costs the store three requests more.
DIRECT_BYTES = 8 * 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ObjectRequest:
    """A file that a client wants to send: sha256 in hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class StagedFile:
    """A file that this service staged and hashed: sha256 in hex, size in bytes, and the upload that holds it as `PUSHED`."""

    sha256: str
    size: int
    upload: str


@dataclass(frozen=True)
class UploadTarget:
    """Where a file is to be sent: to the registry, or in parts of `part_bytes` straight to the store's `urls`.

    `object` is None where it is there already.
    """

    wanted: ObjectRequest
    object: str | None
    part_bytes: int = 0
    urls: tuple[str, ...] = ()


def new_upload() -> str:
    """A name for what one attempt stages: nobody else writes there, so what broke off is in nobody's way."""
    return f"put-{secrets.token_hex(16)}"


def owner_of(repository: Repository) -> str:
    return INSTALLATION if repository.kind == "base" else repository.owner


def require_push(principal: Principal, repository: Repository) -> None:
    """Raises `DomainError` (hub.repository, token.scope, push.merged) unless this principal may send to a repository."""
    if repository.kind == "merged":
        raise DomainError("push.merged", repository=repository.full_name)
    if repository.kind == "base":
        principal.require_admin()
    elif not principal.can_read(repository.owner):
        raise DomainError("hub.repository", repository=repository.full_name)
    else:
        principal.require_publish(repository.owner)


def begin(
    uow: UnitOfWork, principal: Principal, repository: Repository, wanted: Sequence[ObjectRequest], has: Mapping[str, int]
) -> list[UploadTarget]:
    """Where files can be sent; what was sent before, or is part of the repository, need not be sent.

    Args:
        uow: the transaction.
        principal: who sends.
        repository: to what.
        wanted: the files.
        has: sizes of what the repository has, by sha256.

    Raises:
        DomainError: version.files, request.too_large, quota.exceeded, and what `require_push` raises.
    """
    require_push(principal, repository)
    _check(uow, repository, wanted)
    account = open_account(uow, owner_of(repository), "bytes")
    places = list[UploadTarget]()
    for one in wanted:
        if has.get(one.sha256) == one.size or _arrived(uow, repository, one):
            places.append(UploadTarget(one, None))
            continue
        row = rows.unsent(uow.session, repository.full_name, one.sha256, one.size)
        if row is None:
            account.charge(bytes=one.size)
            row = add(uow, repository, one.sha256, one.size)
        places.append(_place(uow, row, one))
    return places


def add(
    uow: UnitOfWork, repository: Repository, sha256: str, size: int, staged: str | None = None, kind: str = FILE
) -> PushedObject:
    """Records bytes of a current or future upload; they count against the owner's quota from now on."""
    row = PushedObject(
        id=new_id("obj"), created_at=clock(uow.session), owner=owner_of(repository), repository=repository.full_name, kind=kind,
        digest=sha256, size=size, charged=size, session=None, staged=staged, multipart=None,
    )  # fmt: skip
    uow.add(row)
    return row


@contextmanager
def staged(blobs: BlobStore, contents: Mapping[str, bytes]) -> Iterator[list[StagedFile]]:
    """Stages small files (sha256 -> bytes) for `keep`; discards them if the block raises."""
    found = [StagedFile(sha256, len(content), new_upload()) for sha256, content in contents.items()]
    try:
        for one in found:
            blobs.append(one.upload, PUSHED, 0, contents[one.sha256])
            blobs.sync_staged(one.upload, PUSHED)
        yield found
    except BaseException:
        for one in found:
            blobs.discard(one.upload)
        raise


def keep(uow: UnitOfWork, principal: Principal, repository: Repository, files: Sequence[StagedFile]) -> None:
    """Records files that this service staged and hashed. Idempotent: files that the repository already has are discarded.

    Raises:
        DomainError: quota.exceeded, and the errors of `require_push`.
    """
    require_push(principal, repository)
    account = open_account(uow, owner_of(repository), "bytes")
    for one in files:
        if has(uow, repository.full_name, one.sha256, one.size):
            uow.after_commit(partial(uow.tools.blobs.discard, one.upload))
        else:
            account.charge(bytes=one.size)
            add(uow, repository, one.sha256, one.size, one.upload)


def has(uow: UnitOfWork, repository: str, sha256: str, size: int) -> bool:
    """Returns whether a file is staged for a repository and was hashed by this service."""
    found = rows.file_object(uow.session, repository, sha256)
    return bool(found and found.is_verified and uow.tools.blobs.received(str(found.staged), PUSHED) == size)


def expected(uow: UnitOfWork, ident: str) -> PushedObject:
    """A file that is to be sent. Raises `DomainError` (upload.unknown)."""
    row = rows.pushed(uow.session, ident)
    if row is None or row.kind != FILE:
        raise DomainError("upload.unknown", upload=ident[:60])
    return row


def complete(uow: UnitOfWork, ident: str) -> None:
    """Puts the parts together that went straight to the store; they are hashed when a commit names them.

    Raises:
        DomainError: upload.unknown, upload.not_direct, upload.incomplete.
    """
    row, direct = expected(uow, ident), uow.tools.blobs.direct
    uow.lock(row)
    if direct is None or row.multipart is None:
        if row.staged:
            return
        raise DomainError("upload.not_direct")
    parts = direct.arrived(row.id, PUSHED, row.multipart)
    if parts is not None:
        if sum(parts.values()) != row.size:
            raise DomainError("upload.incomplete", path=row.digest, received=sum(parts.values()), size=row.size)
        direct.complete(row.id, PUSHED, row.multipart)
    row.staged = row.id


def require_arrived(uow: UnitOfWork, principal: Principal, repository: Repository, wanted: ObjectRequest) -> None:
    """Raises `DomainError` (upload.incomplete) unless a file was sent to a repository."""
    require_push(principal, repository)
    if not _arrived(uow, repository, wanted):
        raise DomainError("upload.incomplete", path=wanted.sha256[:64], received=0, size=wanted.size)


def named(uow: UnitOfWork, repository: Repository, sha256: str, size: int | None) -> PushedObject | None:
    """The file that a commit names by its digest, if it was sent to the same repository."""
    row = rows.file_object(uow.session, repository.full_name, sha256)
    return row if row and size in (None, row.size) else None


def sent(uow: UnitOfWork, repository: Repository, path: str, sha256: str, size: int | None) -> dict[str, Any] | None:
    """Returns the uploaded file that a commit adds under a path; None if it was not uploaded to the same repository."""
    row = named(uow, repository, sha256, size)
    return {"path": path, "size": row.size, "sha256": row.digest, "object": row.id} if row else None


def forget(uow: UnitOfWork, idents: Sequence[str]) -> None:
    """Drops files that a version has taken, or that are of no use any more, and what is still staged of them."""
    found = rows.objects(uow.session, idents)
    staged = [upload for row in found for upload in row.uploads]
    rows.remove(uow.session, idents)
    for upload in staged:
        uow.after_commit(partial(uow.tools.blobs.discard, upload))


def _arrived(uow: UnitOfWork, repository: Repository, wanted: ObjectRequest) -> bool:
    row = named(uow, repository, wanted.sha256, wanted.size)
    if row is None:
        return False
    blobs = uow.tools.blobs
    return blobs.received(str(row.staged), PUSHED) == row.size or (row.is_verified and blobs.size(row.digest) == row.size)


def _place(uow: UnitOfWork, row: PushedObject, one: ObjectRequest) -> UploadTarget:
    direct = uow.tools.blobs.direct
    if direct is None or one.size < DIRECT_BYTES:
        return UploadTarget(one, row.id)
    # Safe on any host name: clients send nothing of ours with the parts, only their length.
    if row.multipart is None or direct.arrived(row.id, PUSHED, row.multipart) is None:
        row.multipart = direct.begin(row.id, PUSHED)
    step = part_bytes(one.size)
    urls = [direct.part_url(row.id, PUSHED, row.multipart, number) for number in range(1, -(-one.size // step) + 1)]
    return UploadTarget(one, row.id, step, tuple(urls))


def _check(uow: UnitOfWork, repository: Repository, wanted: Sequence[ObjectRequest]) -> None:
    limits = uow.tools.limits
    if len(wanted) > limits.patch_files:
        raise DomainError("version.files", reason=f"There are more than {limits.patch_files} files.")
    for one in wanted:
        if not _SHA256.fullmatch(one.sha256) or not 0 <= one.size < 2**62:
            raise DomainError("version.files", reason="Every file needs its size and the sha256 of its bytes in lower-case hex.")
    total = sum(one.size for one in wanted)
    if repository.kind == "patch" and total > limits.patch_bytes:
        raise DomainError("request.too_large", what="the patch", size=total, limit=limits.patch_bytes)
