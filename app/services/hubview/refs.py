"""What a repository can be asked for by name, and what came before what: refs and commits of the Hub protocol."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from app.db import aliases, ports, versions
from app.db import patches as patch_rows
from app.db import releases as release_rows
from app.db.families import Family
from app.db.patches import Patch
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import MAIN, Repository
from app.services.access import grants
from app.services.hubview.hub_commits import Subject
from app.services.hubview.repositories import Adapter, BaseModel, Kind, Merged, Nothing, Thing, announced, root_of
from app.services.hubview.snapshots import moment_of, subject_of
from app.services.unit_of_work import UnitOfWork


@dataclass(frozen=True)
class Ref:
    """A name of a revision; it `moves` to others (a branch), or does not (a tag). `subject` is None: nothing is there yet."""

    name: str
    moves: bool
    subject: Subject | None


@dataclass(frozen=True)
class Moment:
    """One commit of a history."""

    title: str
    at: dt.datetime
    subject: Subject | None


def references(uow: UnitOfWork, principal: Principal, repository: Repository) -> list[Ref]:
    """Branches and tags of a repository.

    Raises:
        DomainError: family.unknown, patch.unknown.
    """
    if announced(uow, principal, repository):
        return []
    root = root_of(uow, principal, repository)
    if isinstance(root, Family):
        return list(_of_family(uow, root))
    if repository.kind == "patch":
        return list(_of_patch(uow, principal, root))
    if not grants.is_visible(uow, principal, root.family_id):
        raise DomainError("family.unknown", family=root.family.name)
    return list(_of_merged(uow, root))


def history(uow: UnitOfWork, thing: Thing) -> list[Moment]:
    """A thing and what it continues, newest first: the parents of a release; older versions, on the same release."""
    if isinstance(thing, Nothing):
        return [Moment(title_of(thing), moment_of(thing), None)]
    return [Moment(title_of(thing), moment_of(thing), subject_of(thing)), *_before(uow, thing)]


def title_of(thing: Thing) -> str:
    if isinstance(thing, BaseModel):
        return f"Release {thing.release.name}"
    if isinstance(thing, Nothing):
        return "Nothing yet"
    if isinstance(thing, Merged):
        return _title("merged", thing.port.version.number, thing.port.release.name)
    return _title("adapter" if thing.port else "patch", thing.version.number, thing.port.release.name if thing.port else "")


def _title(kind: Kind, number: int | None, release: str) -> str:
    return f"Version {number}" + {"merged": f" on {release}", "adapter": f" for {release}"}.get(kind, "")


def _of_family(uow: UnitOfWork, family: Family) -> Iterator[Ref]:
    ready = release_rows.names_of_ready(uow.session, family.id)
    if ready:
        yield Ref(MAIN, True, ("base", ready[0][0]))
    for ident, name in ready:
        yield Ref(name, False, ("base", ident))


def _of_patch(uow: UnitOfWork, principal: Principal, patch: Patch) -> Iterator[Ref]:
    published = {version.number: version.id for version in versions.published(uow.session, patch.id)}
    newest = next(iter(published.values()), None)
    yield Ref(MAIN, True, ("patch", newest) if newest else None)
    for alias, number in aliases.numbers(uow.session, patch.id).items():
        if number in published:
            yield Ref(alias, True, ("patch", published[number]))
    for number, ident in published.items():
        yield Ref(str(number), False, ("patch", ident))
    if grants.is_visible(uow, principal, patch.family_id):
        for carried in ports.carried(uow.session, patch.id):
            yield Ref(f"{carried.number}@{carried.release}", False, ("adapter", carried.id))


def _of_merged(uow: UnitOfWork, patch: Patch) -> Iterator[Ref]:
    if newest := ports.newest(uow.session, patch.id):
        yield Ref(MAIN, True, ("merged", newest.id))
    version = patch_rows.newest_version(uow.session, patch.id)
    for carried in ports.carried(uow.session, patch.id):
        if version and carried.version_id == version.id:
            yield Ref(carried.release, True, ("merged", carried.id))
        yield Ref(f"{carried.release}@{carried.number}", False, ("merged", carried.id))


def _before(uow: UnitOfWork, thing: BaseModel | Adapter | Merged) -> Iterator[Moment]:
    if isinstance(thing, BaseModel):
        yield from _parents(uow, thing.release)
        return
    version, port = thing.version if isinstance(thing, Adapter) else thing.port.version, thing.port
    assert version.number is not None  # noqa: S101  it is published
    if port is None:
        for older in versions.published(uow.session, version.patch_id, version.number):
            yield Moment(_title("patch", older.number, ""), older.at, ("patch", older.id))
        return
    kind: Kind = "adapter" if isinstance(thing, Adapter) else "merged"
    for carried in ports.carried_before(uow.session, version.patch_id, port.release_id, version.number):
        yield Moment(_title(kind, carried.number, carried.release), carried.at, (kind, carried.id))


def _parents(uow: UnitOfWork, release: Release) -> Iterator[Moment]:
    while release.parent_id and (parent := release_rows.get(uow.session, release.parent_id)):
        if parent.state == "ready":
            thing = BaseModel(parent)
            yield Moment(title_of(thing), moment_of(thing), subject_of(thing))
        release = parent
