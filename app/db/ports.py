"""Ports."""

import datetime as dt
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Select,
    String,
    UniqueConstraint,
    and_,
    bindparam,
    func,
    select,
)
from sqlalchemy.orm import Mapped, Session, joinedload, mapped_column, relationship

from app.core.recipe import PLAIN
from app.db.base import Base, Identified, Versioned, page, state_constraint
from app.db.families import Family
from app.db.job_backed import job_id
from app.db.patches import Patch, PatchVersion
from app.db.releases import Release


class Port(Identified, Versioned, Base):
    """A patch version carried to a release with a recipe.

    Attributes:
        fingerprint: names the merged bytes; with `forced`, the natural key of a port.
        findings: [{code, severity, message, data}].
        fidelity: the sampled figure, replaced by the exact one when the digest job ran.
        digests: sha256 by path of computed files, once a job computed them.
        reason: why it was forced or approved, and by whom.
    """

    __tablename__ = "ports"
    __table_args__ = (
        UniqueConstraint("version_id", "release_id", "fingerprint", "forced"),
        state_constraint("port"),
        CheckConstraint("state <> 'ready' OR ready_at IS NOT NULL", name="ready"),
        CheckConstraint("state NOT IN ('ready', 'held') OR NOT forced OR reason IS NOT NULL AND reason <> ''", name="forced"),
        ForeignKeyConstraint(
            ["version_id", "owner"], ["patch_versions.id", "patch_versions.owner"], name="fk_ports_version_of_owner"
        ),
        Index("ix_ports_owner_id", "owner", "id"),
        Index("ix_ports_release_id_id", "release_id", "id"),
    )

    version_id: Mapped[str] = mapped_column(ForeignKey("patch_versions.id"))
    release_id: Mapped[str] = mapped_column(ForeignKey("releases.id"), index=True)
    owner: Mapped[str] = mapped_column(String(64), index=True)
    state: Mapped[str] = mapped_column(String(20), index=True)
    recipe: Mapped[dict[str, Any]]
    fingerprint: Mapped[str] = mapped_column(String(64))
    forced: Mapped[bool]
    reason: Mapped[str | None] = mapped_column(String(2000))
    findings: Mapped[list[Any]]
    fidelity: Mapped[dict[str, Any] | None]
    digests: Mapped[dict[str, Any] | None]
    digest_attempt: Mapped[int] = mapped_column(default=0)
    ready_at: Mapped[dt.datetime | None]

    version: Mapped[PatchVersion] = relationship(lazy="raise", foreign_keys=version_id)
    release: Mapped[Release] = relationship(lazy="raise")

    @property
    def job(self) -> str:
        """The id of the job that computes its digests."""
        return job_id(self.owner, "digest", self.id, self.digest_attempt)


_WITH_NAMES = (
    joinedload(Port.version).joinedload(PatchVersion.patch).joinedload(Patch.family),
    joinedload(Port.version).joinedload(PatchVersion.trained_on),
    joinedload(Port.release).joinedload(Release.family),
)


_BY_ID = select(Port).where(Port.id == bindparam("id")).options(*_WITH_NAMES)


def get(session: Session, port_id: str) -> Port | None:
    return session.scalar(_BY_ID, {"id": port_id})


def among(session: Session, idents: Sequence[str]) -> Sequence[Port]:
    """Returns those of the given ports that exist."""
    return session.scalars(select(Port).where(Port.id.in_(idents)).options(*_WITH_NAMES)).all()


def existing(session: Session, version_id: str, release_id: str, fingerprint: str, forced: bool) -> Port | None:
    query = select(Port).where(
        Port.version_id == version_id, Port.release_id == release_id, Port.fingerprint == fingerprint, Port.forced == forced
    )
    return session.scalar(query.options(*_WITH_NAMES))


class PortLine(NamedTuple):
    """A port in a list, with the names of what it is made of."""

    id: str
    owner: str
    name: str
    version: int | None
    family: str
    release: str
    trained_on: str | None
    state: str
    recipe: dict[str, Any]
    fingerprint: str
    findings: list[Any]
    fidelity: dict[str, Any] | None
    forced: bool
    reason: str | None
    digests: dict[str, Any] | None
    created_at: dt.datetime
    ready_at: dt.datetime | None


def list_page(
    session: Session,
    owner: str | None,
    family_id: str | None,
    patch_id: str | None,
    version_id: str | None,
    release_id: str | None,
    state: str | None,
    after: str | None,
    limit: int,
) -> list[PortLine]:
    """Newest first, one more than `limit`, as lines: mapped rows with all that they refer to cost several times as much."""
    chosen = {
        "owner": owner, "family_id": family_id, "patch_id": patch_id, "version_id": version_id, "release_id": release_id,
        "state": state, "after": after,
    }  # fmt: skip
    given = {name: value for name, value in chosen.items() if value}
    return [PortLine(*row) for row in session.execute(_lines(frozenset(given)), {**given, "limit": limit + 1})]


@cache
def _lines(given: frozenset[str]) -> Select[Any]:
    """The statement of a page, for what is asked for."""
    port, version, patch, family = Port.__table__, PatchVersion.__table__, Patch.__table__, Family.__table__
    release, trained_on = Release.__table__, Release.__table__.alias("trained_on")
    of = port.c
    query = select(
        of.id, patch.c.owner, patch.c.name, version.c.number, family.c.name, release.c.name, trained_on.c.name, of.state,
        of.recipe, of.fingerprint, of.findings, of.fidelity, of.forced, of.reason, of.digests, of.created_at, of.ready_at,
    )  # fmt: skip
    query = query.select_from(
        port.join(version, of.version_id == version.c.id)
        .join(patch, version.c.patch_id == patch.c.id)
        .join(family, patch.c.family_id == family.c.id)
        .join(release, of.release_id == release.c.id)
        .outerjoin(trained_on, version.c.trained_on_id == trained_on.c.id)
    )
    columns = {name: of[name] for name in ("owner", "version_id", "release_id", "state")}
    columns |= {"patch_id": version.c.patch_id, "family_id": patch.c.family_id}
    for name in given - {"after"}:
        query = query.where(columns[name] == bindparam(name))
    if "after" in given:
        query = query.where(of.id < bindparam("after"))
    return query.order_by(of.id.desc()).limit(bindparam("limit"))


def of_version(session: Session, version_id: str) -> Sequence[Port]:
    """All ports of a version, in every state."""
    query = select(Port).where(Port.version_id == version_id).options(*_WITH_NAMES)
    return session.scalars(query.order_by(Port.id)).all()


def everything(session: Session, after: str | None, limit: int) -> Sequence[Port]:
    """One page of all ports, as rows."""
    return page(session, select(Port).options(*_WITH_NAMES), Port, after, limit)


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Port)) or 0


def counts(session: Session) -> dict[str, int]:
    """How many are in each state; read from the index over states."""
    return dict(session.execute(select(Port.state, func.count()).group_by(Port.state)).tuples().all())


# -- ports that the Hub protocol shows: ready, with the canonical recipe (plain addition in the dtypes of the release).

CANONICAL = and_(
    Port.state == "ready", *(Port.recipe[field].as_string() == value for field, value in PLAIN.to_dict().items())
)  # fmt: skip
_SELECTABLE = (PatchVersion.state == "published", Release.state == "ready")
# A forced port beside one that was not is the same bytes; the latter has less to explain.
_BETWEEN = (
    select(Port)
    .where(CANONICAL, Port.version_id == bindparam("version"), Port.release_id == bindparam("release"))
    .options(*_WITH_NAMES)
    .order_by(Port.forced, Port.id)
    .limit(1)
)
_NEWEST = (
    select(Port)
    .join(PatchVersion, Port.version_id == PatchVersion.id)
    .join(Release, Port.release_id == Release.id)
    .where(CANONICAL, *_SELECTABLE, PatchVersion.patch_id == bindparam("patch"))
    .options(*_WITH_NAMES)
    .order_by(Port.ready_at.desc(), Port.forced, Port.id.desc())
    .limit(1)
)


def between(session: Session, version_id: str, release_id: str) -> Port | None:
    """The ready port of a version to a release."""
    return session.scalar(_BETWEEN, {"version": version_id, "release": release_id})


def newest(session: Session, patch_id: str) -> Port | None:
    """The port of a patch that became ready last, of what was not yanked."""
    return session.scalar(_NEWEST, {"patch": patch_id})


class Carried(NamedTuple):
    """A ready port, identified by names; `at` is when it became ready."""

    id: str
    version_id: str
    number: int | None
    release: str
    at: dt.datetime


def carried(session: Session, patch_id: str) -> list[Carried]:
    """Returns all selectable ready ports of a patch, by version and release, newest versions first."""
    return _carried(session, PatchVersion.patch_id == patch_id, Release.state == "ready")


def carried_before(session: Session, patch_id: str, release_id: str, number: int) -> list[Carried]:
    """Returns the ready ports to a release of a patch's published versions below `number`, newest versions first."""
    return _carried(session, PatchVersion.patch_id == patch_id, Port.release_id == release_id, PatchVersion.number < number)


def _carried(session: Session, *conditions: ColumnElement[bool]) -> list[Carried]:
    query = (
        select(Port.id, Port.version_id, PatchVersion.number, Release.name, func.coalesce(Port.ready_at, Port.created_at))
        .join(PatchVersion, Port.version_id == PatchVersion.id)
        .join(Release, Port.release_id == Release.id)
        .where(CANONICAL, PatchVersion.state == "published", *conditions)
        .order_by(PatchVersion.number.desc(), Port.release_id.desc(), Port.forced, Port.id)
    )
    found = dict[tuple[str, str], Carried]()
    for row in session.execute(query):
        found.setdefault((row.version_id, row.name), Carried(*row))
    return list(found.values())


def with_ports(session: Session, patch_ids: Sequence[str]) -> set[str]:
    """Which of some patches have a ready port that can be selected."""
    query = (
        select(PatchVersion.patch_id)
        .join(Port, Port.version_id == PatchVersion.id)
        .join(Release, Port.release_id == Release.id)
        .where(CANONICAL, *_SELECTABLE, PatchVersion.patch_id.in_(patch_ids))
    )
    return set(session.scalars(query.distinct()))
