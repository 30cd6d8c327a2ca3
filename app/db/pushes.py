"""What arrives by the Hub protocol before it is a version: repositories with uncommitted files, and the objects sent for them."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint, delete, func, or_, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, Identified, Versioned

FILE, XORB, RESERVED = "file", "xorb", "reserved"


class Push(Identified, Versioned, Base):
    """What was committed to a repository and is no version yet; without files, a repository that is announced only.

    Attributes:
        repository: owner/name of a patch, or base/family.
        revision: `main` of a patch; of a base, the release that it will be.
        patch_id: None while nothing has said of what family the patch is.
        files: [{path, size, sha256, object}]; `object` is a `PushedObject`'s id, None for bytes of the owner's that are kept.
        dropped: names of files that do not belong to a patch.
        parent: number of the version that it continues; None for none.
        waits: the problem that keeps it from being a version, as plain values; None while files are missing.
        touched_at: when something was last committed to it.
    """

    __tablename__ = "pushes"
    __table_args__ = (UniqueConstraint("repository", "revision"),)

    owner: Mapped[str] = mapped_column(String(64), index=True)
    repository: Mapped[str] = mapped_column(String(160))
    revision: Mapped[str] = mapped_column(String(64))
    patch_id: Mapped[str | None] = mapped_column(ForeignKey("patches.id"))
    files: Mapped[list[Any]]
    dropped: Mapped[list[Any]]
    parent: Mapped[int | None]
    waits: Mapped[dict[str, Any] | None]
    touched_at: Mapped[dt.datetime] = mapped_column(index=True)


class PushedObject(Identified, Base):
    """Bytes that a client pushes to a repository: a file, or a Xet block from which files are reconstructed.

    Attributes:
        kind: "file", "xorb", or "reserved" (a quota reservation for bytes that are still arriving).
        digest: sha256 of a file; the name of a block; empty for a reservation.
        size: announced size in bytes; for a block, the size that arrived.
        charged: bytes that count against the owner's quota; 0 for a block whose files have been reconstructed.
        session: for a block, the client's session; the block is visible only in it.
        staged: the upload that holds the bytes, set when all have arrived; see `is_verified`.
        multipart: for a direct transfer to the object store, the store's id of the multipart upload.
        attempt, attempt_until: the staged upload of the request that is sending this file, and when its lease expires.
    """

    __tablename__ = "pushed_objects"
    __table_args__ = (Index("ix_pushed_objects_repository_digest", "repository", "digest"),)

    owner: Mapped[str] = mapped_column(String(64), index=True)
    repository: Mapped[str] = mapped_column(String(160))
    kind: Mapped[str] = mapped_column(String(8))
    digest: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    charged: Mapped[int] = mapped_column(BigInteger)
    session: Mapped[str | None] = mapped_column(String(64))
    staged: Mapped[str | None] = mapped_column(String(64))
    multipart: Mapped[str | None] = mapped_column(String(1024))
    attempt: Mapped[str | None] = mapped_column(String(64))
    attempt_until: Mapped[dt.datetime | None]

    @property
    def is_verified(self) -> bool:
        """Whether this service has staged and hashed all bytes; bytes of direct transfers are not hashed yet."""
        return self.staged is not None and self.multipart is None

    @property
    def uploads(self) -> set[str]:
        """The uploads that may hold staged bytes."""
        return {upload for upload in (self.staged, self.attempt, self.id if self.multipart else None) if upload}


def find(session: Session, repository: str, revision: str) -> Push | None:
    return session.scalar(select(Push).where(Push.repository == repository, Push.revision == revision))


def pushed(session: Session, ident: str) -> PushedObject | None:
    return session.get(PushedObject, ident)


def file_object(session: Session, repository: str, digest: str) -> PushedObject | None:
    """A file of which all bytes were sent to a repository and verified."""
    query = select(PushedObject).where(
        PushedObject.repository == repository, PushedObject.digest == digest, PushedObject.kind == FILE,
        PushedObject.staged.is_not(None),
    )  # fmt: skip
    return session.scalars(query.order_by(PushedObject.id.desc()).limit(1)).first()


def unsent(session: Session, repository: str, digest: str, size: int) -> PushedObject | None:
    """A file that was announced for a repository and did not arrive yet."""
    query = select(PushedObject).where(
        PushedObject.repository == repository, PushedObject.digest == digest, PushedObject.kind == FILE,
        PushedObject.size == size, PushedObject.staged.is_(None),
    )  # fmt: skip
    return session.scalars(query.limit(1)).first()


def blocks(session: Session, repository: str, client: str, names: Sequence[str]) -> dict[str, PushedObject]:
    """Blocks of a client's session, by name."""
    query = select(PushedObject).where(
        PushedObject.repository == repository, PushedObject.kind == XORB, PushedObject.session == client,
        PushedObject.digest.in_(names), PushedObject.staged.is_not(None),
    )  # fmt: skip
    return {row.digest: row for row in session.scalars(query)}


def objects(session: Session, idents: Sequence[str]) -> Sequence[PushedObject]:
    return session.scalars(select(PushedObject).where(PushedObject.id.in_(idents))).all()


def remove(session: Session, idents: Sequence[str]) -> None:
    for row in objects(session, idents):
        session.delete(row)
    session.flush()


def remove_reservation(session: Session, ident: str) -> None:
    session.execute(delete(PushedObject).where(PushedObject.id == ident, PushedObject.kind == RESERVED))


def of_digests(session: Session, owner: str, digests: Sequence[str]) -> Sequence[PushedObject]:
    """Files of an owner's that have one of some digests, and blocks that may hold any."""
    query = select(PushedObject).where(
        PushedObject.owner == owner, or_(PushedObject.digest.in_(digests), PushedObject.kind == XORB)
    )
    return session.scalars(query).all()


def old_objects(
    session: Session, before: dt.datetime, spent_before: dt.datetime, reserved_before: dt.datetime
) -> Sequence[PushedObject]:
    """Returns stale rows: objects begun before `before`, blocks whose files are complete begun before `spent_before`, and
    reservations begun before `reserved_before`.
    """
    spent = (PushedObject.kind == XORB) & (PushedObject.charged == 0) & (PushedObject.created_at < spent_before)
    reserved = (PushedObject.kind == RESERVED) & (PushedObject.created_at < reserved_before)
    return session.scalars(select(PushedObject).where(or_(PushedObject.created_at < before, spent, reserved))).all()


def old_pushes(session: Session, before: dt.datetime) -> Sequence[Push]:
    return session.scalars(select(Push).where(Push.touched_at < before).with_for_update(skip_locked=True)).all()


def bytes_of(session: Session, owner: str) -> int:
    return int(session.scalar(select(func.sum(PushedObject.charged)).where(PushedObject.owner == owner)) or 0)


def count(session: Session, owner: str) -> int:
    """How many repositories of an owner are announced, or have something that is no version yet."""
    return session.scalar(select(func.count()).select_from(Push).where(Push.owner == owner)) or 0


def announced(session: Session, owner: str) -> int:
    """How many of them are no patch yet."""
    query = select(func.count()).select_from(Push).where(Push.owner == owner, Push.patch_id.is_(None))
    return session.scalar(query) or 0
