"""Releases, and what was measured between two of them."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, UniqueConstraint, bindparam, func, select, text
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.db.base import Base, Identified, page, state_constraint
from app.db.families import Family, visible_to
from app.db.job_backed import JobBacked

_DAMAGED = text("damaged_path IS NOT NULL")


class Release(JobBacked, Base):
    """One drop of a family.

    Attributes:
        source: the directory or s3:// prefix it was registered from.
        copied: whether its bytes were copied into the blob store.
        stats: for a release by reference, the identity of each file when it was digested, by path: [size, mtime_ns, inode] in a
            directory, [size, etag] in S3.
        identities: for a release by reference from a directory, [ctime_ns, device] by path, in addition to `stats`; null if the
            release was registered before these were recorded.
        damaged_path: a file whose bytes changed although its identity did not; the release is then not read any more.
        manifest: sha256 of its manifest, a blob; its natural key.
        summary: total bytes, tensors, parameters, model type and what was left out; for lists.
        origin: {upstream, endpoint, repository, revision, commit} where it was pulled from another hub.
    """

    __tablename__ = "releases"
    __table_args__ = (
        UniqueConstraint("family_id", "name"),
        state_constraint("release"),
        CheckConstraint("state NOT IN ('ready', 'yanked') OR manifest IS NOT NULL", name="manifest"),
        Index("ix_releases_copied_total_bytes", "copied", "total_bytes"),
        Index("ix_releases_damaged_path", "damaged_path", sqlite_where=_DAMAGED, postgresql_where=_DAMAGED),
    )

    JOB = "ingest"

    family_id: Mapped[str] = mapped_column(ForeignKey("families.id"))
    name: Mapped[str] = mapped_column(String(64))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("releases.id"))
    source: Mapped[str] = mapped_column(String(4096))
    copied: Mapped[bool]
    stats: Mapped[dict[str, Any] | None]
    identities: Mapped[dict[str, Any] | None]
    damaged_path: Mapped[str | None] = mapped_column(String(4096))
    manifest: Mapped[str | None] = mapped_column(String(64), index=True)
    total_bytes: Mapped[int | None] = mapped_column(BigInteger)
    summary: Mapped[dict[str, Any] | None]
    origin: Mapped[dict[str, Any] | None]
    yank_reason: Mapped[str | None] = mapped_column(String(2000))
    ready_at: Mapped[dt.datetime | None]

    family: Mapped[Family] = relationship(lazy="raise")
    parent: Mapped["Release | None"] = relationship(lazy="raise", remote_side="Release.id")


class LineageSample(Identified, Base):
    """How two releases compare, sampled once for each pair of manifests."""

    __tablename__ = "lineage_samples"
    __table_args__ = (UniqueConstraint("old_manifest", "new_manifest"),)

    old_manifest: Mapped[str] = mapped_column(String(64))
    new_manifest: Mapped[str] = mapped_column(String(64))
    lineage: Mapped[dict[str, Any]]


_WITH_NAMES = (joinedload(Release.family), joinedload(Release.parent))


def get(session: Session, release_id: str) -> Release | None:
    return session.scalar(select(Release).where(Release.id == release_id).options(*_WITH_NAMES))


def among(session: Session, idents: Sequence[str]) -> Sequence[Release]:
    """Returns those of the given releases that exist."""
    return session.scalars(select(Release).where(Release.id.in_(idents)).options(*_WITH_NAMES)).all()


def locked(session: Session, release_id: str) -> Release | None:
    """A release as it is now, which nobody else changes before this transaction ends."""
    query = select(Release).where(Release.id == release_id).options(*_WITH_NAMES)
    return session.scalar(query.with_for_update(of=Release).execution_options(populate_existing=True))


_BY_NAME = (
    select(Release)
    .where(Release.family_id == bindparam("family"), Release.name == bindparam("name"))
    .options(*_WITH_NAMES)
)  # fmt: skip


def by_name(session: Session, family_id: str, name: str) -> Release | None:
    return session.scalar(_BY_NAME, {"family": family_id, "name": name})


_NEWEST_READY = (
    select(Release)
    .where(Release.family_id == bindparam("family"), Release.state == "ready")
    .options(*_WITH_NAMES)
    .order_by(Release.ready_at.desc(), Release.id.desc())
    .limit(1)
)


def newest_ready(session: Session, family_id: str) -> Release | None:
    """Returns the newest ready release of a family; None if there is none."""
    return session.scalar(_NEWEST_READY, {"family": family_id})


def names_of_ready(session: Session, family_id: str) -> Sequence[tuple[str, str]]:
    """Returns id and name of every ready release of a family, newest first."""
    query = select(Release.id, Release.name).where(Release.family_id == family_id, Release.state == "ready")
    return session.execute(query.order_by(Release.ready_at.desc(), Release.id.desc())).tuples().all()


def list_page(
    session: Session, family_id: str | None, state: str | None, after: str | None, limit: int, reader: str | None = None
) -> Sequence[Release]:
    """One page; of the families that an owner may see only, where `reader` names one."""
    query = select(Release).options(*_WITH_NAMES)
    if reader is not None:
        query = query.where(Release.family_id.in_(visible_to(reader)))
    if family_id:
        query = query.where(Release.family_id == family_id)
    if state:
        query = query.where(Release.state == state)
    return page(session, query, Release, after, limit)


_LINEAGE = select(LineageSample.lineage).where(
    LineageSample.old_manifest == bindparam("old"), LineageSample.new_manifest == bindparam("new")
)


def lineage(session: Session, old_manifest: str, new_manifest: str) -> dict[str, Any] | None:
    return session.scalar(_LINEAGE, {"old": old_manifest, "new": new_manifest})


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Release)) or 0


def counts(session: Session) -> dict[str, int]:
    """How many are in each state; read from the index over states."""
    return dict(session.execute(select(Release.state, func.count()).group_by(Release.state)).tuples().all())


def is_ingesting(session: Session, source: str) -> bool:
    """Whether a release is read just now that was registered from a source."""
    return bool(session.scalar(select(Release.id).where(Release.source == source, Release.state == "ingesting").limit(1)))


def is_copying(session: Session) -> bool:
    """Whether a release is read just now whose bytes are copied into the blob store."""
    return bool(session.scalar(select(Release.id).where(Release.copied, Release.state == "ingesting").limit(1)))


def by_reference(session: Session) -> Sequence[str]:
    """Returns the ids of ready and yanked releases that are read from the directory they were registered from."""
    in_directory = Release.copied.is_(False), Release.source.not_like("s3://%"), Release.manifest.is_not(None)
    return session.scalars(select(Release.id).where(*in_directory, Release.state.in_(("ready", "yanked")))).all()


def count_damaged(session: Session) -> int:
    """Returns how many releases are damaged: not read, because a file's bytes changed."""
    return session.scalar(select(func.count()).select_from(Release).where(Release.damaged_path.is_not(None))) or 0
