"""What a repository can be asked for by name, and what came before what: refs and commits of the Hub protocol."""

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from app.core.errors import CoreError
from app.db import commits, ports
from app.db import patches as patch_rows
from app.db import releases as release_rows
from app.db.families import Family
from app.db.patches import Patch
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import MAIN, Repository
from app.services import families, snapshots
from app.services.repositories import Adapter, Base, Kind, Merged, Nothing, Thing, announced, root_of
from app.services.snapshots import Drawn, moment_of, subject_of
from app.services.uow import UnitOfWork

# Newest first; what is older can still be read by its name.
MAX_REFERENCES = 1000
MAX_COMMITS = 200
# How many commits are written down for one request.
FIRST_LOOKS = 64
AMONG = 500

Subject = tuple[Kind, str]


@dataclass(frozen=True)
class Reference:
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


def references(uow: UnitOfWork, principal: Principal, repository: Repository) -> list[Reference]:
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
        return list(islice(_of_patch(uow, principal, root), MAX_REFERENCES))
    if not families.is_visible(uow, principal, root.family_id):
        raise DomainError("family.unknown", family=root.family.name)
    return list(_of_merged(uow, root))


def history(uow: UnitOfWork, thing: Thing) -> list[Moment]:
    """A thing and what it continues, newest first: the parents of a release; older versions, on the same release."""
    return list(islice(_history(uow, thing), MAX_COMMITS))


def title_of(thing: Thing) -> str:
    if isinstance(thing, Base):
        return f"Release {thing.release.name}"
    if isinstance(thing, Nothing):
        return "Nothing yet"
    if isinstance(thing, Merged):
        return f"Version {thing.port.version.number} on {thing.port.release.name}"
    return f"Version {thing.version.number}" + (f" for {thing.port.release.name}" if thing.port else "")


def names(uow: UnitOfWork, subjects: Sequence[Subject]) -> dict[Subject, str]:
    """Commit ids of those subjects whose commits are written down."""
    found = dict[Subject, str]()
    for kind in sorted({kind for kind, _ in subjects}):
        idents = [ident for own, ident in subjects if own == kind]
        for start in range(0, len(idents), AMONG):
            for ident, name in commits.names(uow.session, kind, idents[start : start + AMONG]).items():
                found[kind, ident] = name
    return found


def draw_missing(uow: UnitOfWork, subjects: Sequence[Subject]) -> tuple[list[Drawn], int]:
    """What is to be written down of subjects, `FIRST_LOOKS` of them at most, and how many are left for another time.

    Those whose bytes are not what they were are passed over and do not count: every request comes further than the one before.

    Raises:
        DomainError: what the storage answers.
    """
    known = names(uow, subjects)
    missing = [subject for subject in dict.fromkeys(subjects) if subject not in known]
    drawn = list[Drawn]()
    for position, subject in enumerate(missing):
        if len(drawn) == FIRST_LOOKS:
            return drawn, len(missing) - position
        thing = _load(uow, *subject)
        with suppress(CoreError):
            if thing is not None:
                drawn.append(snapshots.draw(uow.tools.library, thing))
    return drawn, 0


def _of_family(uow: UnitOfWork, family: Family) -> Iterator[Reference]:
    ready = release_rows.ready(uow.session, family.id, MAX_REFERENCES)
    if ready:
        yield Reference(MAIN, True, ("base", ready[0].id))
    for release in ready:
        yield Reference(release.name, False, ("base", release.id))


def _of_patch(uow: UnitOfWork, principal: Principal, patch: Patch) -> Iterator[Reference]:
    versions = patch_rows.versions_page(uow.session, patch.id, None, MAX_REFERENCES)
    published = {version.number: version.id for version in versions if version.state == "published"}
    newest = next(iter(published.values()), None)
    yield Reference(MAIN, True, ("patch", newest) if newest else None)
    for alias, number in patch_rows.aliases(uow.session, patch.id).items():
        if number in published:
            yield Reference(alias, True, ("patch", published[number]))
    for number, ident in published.items():
        yield Reference(str(number), False, ("patch", ident))
    if families.is_visible(uow, principal, patch.family_id):
        for carried in ports.carried(uow.session, patch.id, MAX_REFERENCES):
            yield Reference(f"{carried.number}@{carried.release}", False, ("adapter", carried.id))


def _of_merged(uow: UnitOfWork, patch: Patch) -> Iterator[Reference]:
    if newest := ports.newest(uow.session, patch.id):
        yield Reference(MAIN, True, ("merged", newest.id))
    version = patch_rows.newest_version(uow.session, patch.id)
    for carried in ports.carried(uow.session, patch.id, MAX_REFERENCES):
        if version and carried.version_id == version.id:
            yield Reference(carried.release, True, ("merged", carried.id))
        yield Reference(f"{carried.release}@{carried.number}", False, ("merged", carried.id))


def _history(uow: UnitOfWork, thing: Thing) -> Iterator[Moment]:
    if isinstance(thing, Nothing):
        yield Moment(title_of(thing), moment_of(thing), None)
        return
    yield Moment(title_of(thing), moment_of(thing), subject_of(thing))
    for before in _before(uow, thing):
        yield Moment(title_of(before), moment_of(before), subject_of(before))


def _before(uow: UnitOfWork, thing: Base | Adapter | Merged) -> Iterator[Base | Adapter | Merged]:
    if isinstance(thing, Base):
        release = thing.release
        while release.parent_id and (parent := release_rows.get(uow.session, release.parent_id)):
            if parent.state == "ready":
                yield Base(parent)
            release = parent
        return
    version = thing.version if isinstance(thing, Adapter) else thing.port.version
    older = (row for row in patch_rows.versions_page(uow.session, version.patch_id, version.id, MAX_COMMITS))
    published = [row for row in older if row.state == "published"]
    if isinstance(thing, Adapter) and thing.port is None:
        yield from map(Adapter, published)
        return
    port = thing.port
    assert port is not None  # noqa: S101  the other kind was told apart above
    for found in filter(None, (ports.between(uow.session, row.id, port.release_id) for row in published)):
        yield Adapter(found.version, found) if isinstance(thing, Adapter) else Merged(found)


def _load(uow: UnitOfWork, kind: Kind, ident: str) -> Thing | None:
    if kind == "base":
        release = release_rows.get(uow.session, ident)
        return Base(release) if release else None
    if kind == "patch":
        version = patch_rows.version(uow.session, ident)
        return Adapter(version) if version else None
    port = ports.get(uow.session, ident)
    if port is None:
        return None
    return Merged(port) if kind == "merged" else Adapter(port.version, port)
