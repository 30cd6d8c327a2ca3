"""Bases that are pushed: files gathered for a release that does not exist before all of it is there.

Admins only. When configuration and all weights that the index names have come, the files are taken into the store, and a job
reads the release from there as it reads one from a directory; it is ready, or rejected with the reason, like any other.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.core.checkpoint import CONFIG_FILE, INDEX_FILE, MAX_FILES, MAX_JSON_BYTES, SINGLE_FILE
from app.db import families as family_rows
from app.db import pushes as rows
from app.db import releases as release_rows
from app.db.base import clock
from app.db.commits import name_of
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.names import check_revision
from app.domain.path_index import PathIndex
from app.domain.principal import Principal
from app.domain.repositories import Repository
from app.services.catalog import families, releases
from app.services.hubview import pushes
from app.services.hubview.pushes import Added, Change, Files
from app.services.unit_of_work import UnitOfWork, UnitsOfWork, run_with_retry
from app.services.uploads import pushed_objects
from app.services.uploads.pushed_objects import PUSHED, require_push


@dataclass(frozen=True)
class Taken:
    """What a commit led to: its id, and a sentence that says whether the release is being read now."""

    commit: str
    sentence: str


def announce(uow: UnitOfWork, principal: Principal, repository: Repository) -> bool:
    """Creates the family of a base, which only admins see until it is granted; whether it is new."""
    require_push(principal, repository)
    if family_rows.by_name(uow.session, repository.name):
        return False
    families.create(uow, principal, repository.name)
    return True


def require_new(uow: UnitOfWork, principal: Principal, repository: Repository, release: str) -> None:
    """Raises `DomainError` (family.unknown, push.base_revision, push.released) unless a release can be pushed by this name."""
    family = families.get(uow, principal, repository.name)
    try:
        check_revision(release, "a release")
    except DomainError:
        raise DomainError("push.base_revision", revision=release[:100]) from None
    found = release_rows.by_name(uow.session, family.id, release)
    if found and found.state != "rejected":
        raise DomainError("push.released", repository=repository.full_name, release=release)


def begin(uow: UnitOfWork, principal: Principal, repository: Repository, release: str) -> bool:
    """Makes it known that a release will be pushed; whether that is new."""
    require_push(principal, repository)
    try:
        require_new(uow, principal, repository, release)
    except DomainError as refusal:
        if refusal.code != "push.released":
            raise
        return False
    if rows.find(uow.session, repository.full_name, release):
        return False
    pushes.begin(uow, repository, release, None)
    return True


def files_of(uow: UnitOfWork, repository: Repository, release: str) -> Files:
    """What was pushed for a release so far, by path."""
    push = rows.find(uow.session, repository.full_name, release)
    return {file["path"]: file for file in push.files} if push else {}


def commit(
    units: UnitsOfWork, principal: Principal, repository: Repository, release: str, changes: Sequence[Change],
    inline: Mapping[str, bytes],
) -> Taken:  # fmt: skip
    """Takes a commit, and begins to read the release where it is complete with it.

    Raises:
        DomainError: push.not_sent, push.lost, upload.digest, quota.exceeded, and what `require_new` raises.
    """
    pushed = f"{repository.full_name}@{release}"
    with units.exclusive(f"push:{pushed}", f"A push to {pushed}"):
        with pushed_objects.staged(units.tools.blobs, inline) as staged:

            def record(uow: UnitOfWork) -> tuple[Files, str | None]:
                pushed_objects.keep(uow, principal, repository, staged)
                recorded = _record(uow, principal, repository, release, changes)
                return recorded, _missing(uow, recorded)

            files, missing = run_with_retry(units.write, record)
        name = name_of([(file["path"], file["sha256"]) for file in files.values()])
        if missing:
            return Taken(name, f"{repository.full_name}@{release} waits for {missing}.")
        _store(units, files)
        run_with_retry(units.write, lambda uow: _register(uow, principal, repository, release))
        return Taken(name, f"{repository.full_name}@{release} is being read now; see 'portllm ls releases'.")


def _record(
    uow: UnitOfWork, principal: Principal, repository: Repository, release: str, changes: Sequence[Change]
) -> Files:  # fmt: skip
    require_push(principal, repository)
    require_new(uow, principal, repository, release)
    push = rows.find(uow.session, repository.full_name, release) or pushes.begin(uow, repository, release, None)
    files = {file["path"]: file for file in push.files}
    index = PathIndex(files)
    for change in changes:
        if not isinstance(change, Added):
            files.pop(change.path, None)
            index.discard(change.path)
            for path in index.discard_below(change.path) if change.folder else ():
                del files[path]
        elif _is_carried(change.path):
            found = pushed_objects.sent(uow, repository, change.path, change.sha256, change.size)
            if found is None:
                raise pushes.not_sent(repository, change)
            files[change.path] = found
            index.add(change.path)
    if len(files) > MAX_FILES:
        raise DomainError("version.files", reason=f"There are more than {MAX_FILES} files.")
    push.files = [files[path] for path in sorted(files)]
    push.touched_at = clock(uow.session)
    push.row_version += 1
    return files


def _missing(uow: UnitOfWork, files: Files) -> str | None:
    """The first file without which it is no base; None where it is complete."""
    if CONFIG_FILE not in files:
        return CONFIG_FILE
    if SINGLE_FILE in files:
        return None
    if INDEX_FILE not in files:
        return SINGLE_FILE
    try:
        named = json.loads(pushes.read_small(uow, files[INDEX_FILE], MAX_JSON_BYTES).decode())["weight_map"].values()
        return next((name for name in sorted(set(named)) if name not in files), None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # the job says what is wrong with it


def _store(units: UnitsOfWork, files: Files) -> None:
    """Moves the files into the store, small ones first; those that were sent straight to it are hashed now."""
    blobs = units.tools.blobs
    with units.read() as uow:
        found = {row.id: row for row in rows.objects(uow.session, [file["object"] for file in files.values()])}
    for file in sorted(files.values(), key=lambda file: int(file["size"])):
        row = found.get(file["object"])
        if row and row.staged and blobs.received(row.staged, PUSHED) == file["size"]:
            blobs.promote(row.staged, PUSHED, file["sha256"], file["path"], row.is_verified)
        elif not (row and row.is_verified and blobs.size(file["sha256"]) == file["size"]):
            raise DomainError("push.lost", path=file["path"])


def _register(uow: UnitOfWork, principal: Principal, repository: Repository, release: str) -> Release:
    require_new(uow, principal, repository, release)
    uow.hold_gc()
    push = rows.find(uow.session, repository.full_name, release)
    assert push is not None  # noqa: S101  whoever has the turn has just written it
    return releases.register_pushed(uow, principal, repository.name, release, push.id)


def _is_carried(path: str) -> bool:
    return not any(part.startswith(".") for part in path.split("/"))
