"""Makes a version of what was pushed, when it is complete: finds out what it was trained on, then verifies and publishes it.

The same steps as of an upload by the API (`app.services.patches.drafts`), in transactions of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from app.core.errors import CoreError
from app.db import patches as patch_rows
from app.db import pushes as rows
from app.db.patches import PatchVersion
from app.db.pushes import Push
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import MAIN, Repository
from app.domain.states import move
from app.services.catalog import base_aliases
from app.services.hubview import pushes, repositories, snapshots
from app.services.hubview.pushes import Change, Files
from app.services.patches import drafts, patches, verification
from app.services.patches.tombstones import reread_if_purged
from app.services.unit_of_work import UnitOfWork, UnitsOfWork, run_with_retry

# Refusals that say nothing of what was pushed: it is kept, and the same commit again goes on.
PASSING = ("busy", "full", "limited")
WAITS = ("push.base_unknown", "push.release_unknown")


@dataclass(frozen=True)
class Committed:
    """What a commit led to: its id, the version that it made if it made one, and the files that were left out."""

    commit: str
    version: int | None
    dropped: Sequence[str]


@dataclass(frozen=True)
class Said:
    """What somebody says that a push was trained on, where it does not tell itself; the family only where none is known."""

    trained_on: str
    family: str | None = None


def commit(
    units: UnitsOfWork, principal: Principal, repository: Repository, parent: str | None, changes: Sequence[Change]
) -> Committed:
    """Takes a commit, and makes a version where the repository is complete with it.

    What is complete and cannot be a version is dropped with the reason; what nobody knows the base of is kept.

    Raises:
        DomainError: push.base_unknown, push.release_unknown (it is kept), patch.other_family, version.trained_on, push.older,
            quota.exceeded, and what `pushes.record` raises.
        CoreError: it is no patch that can be added to what it was trained on.
    """
    with units.exclusive(f"push:{repository.full_name}", f"A push to {repository.full_name}"):
        main = main_commit(units, principal, repository)

        def record(uow: UnitOfWork) -> tuple[str | None, bool, list[str]]:
            push, dropped = pushes.record(uow, principal, repository, main, parent, changes)
            if push is None:
                return None, False, dropped
            files = {file["path"]: file for file in push.files}
            return pushes.commit_of(files), pushes.is_complete(files), dropped

        draft, complete, dropped = run_with_retry(units.write, record)
        if not complete:
            return Committed(draft or main, None, dropped)
        version = _seal(units, principal, repository, None)
        return Committed(main_commit(units, principal, repository), version.number, dropped)


def publish(units: UnitsOfWork, principal: Principal, repository: Repository, said: Said) -> PatchVersion:
    """Makes a version of a push that waits, with what somebody says that it was trained on.

    Raises:
        DomainError: push.none, family.unknown, release.unknown, and what `commit` raises.
        CoreError: as of `commit`.
    """
    with units.exclusive(f"push:{repository.full_name}", f"A push to {repository.full_name}"):
        with units.read() as uow:
            pushes.require_known(uow, principal, repository)
            push = pushes.find(uow, repository)
            if push is None or not pushes.is_complete({file["path"]: file for file in push.files}):
                raise DomainError("push.none", repository=repository.full_name)
        return _seal(units, principal, repository, said)


def main_commit(units: UnitsOfWork, principal: Principal, repository: Repository) -> str:
    """The commit id of the newest version, as it is read; of nothing where there is none yet."""
    with units.read() as uow:
        thing = repositories.find(uow, principal, repository, MAIN)
        if found := snapshots.written(uow, thing):
            return found.commit
    drawn = snapshots.draw(units.tools.artifacts, thing)
    run_with_retry(units.write, lambda uow: snapshots.keep(uow, drawn))
    with units.read() as uow:
        kept = snapshots.written(uow, thing)
        assert kept is not None  # noqa: S101  it was written a line ago
        return kept.commit


def _seal(units: UnitsOfWork, principal: Principal, repository: Repository, said: Said | None) -> PatchVersion:
    upload: str | None = None

    try:
        upload = run_with_retry(units.write, lambda uow: _draft(uow, principal, repository, said))
        if upload is None:
            with units.read() as uow:
                raise _waits(uow, repository)
        facts = reread_if_purged(lambda: verification.verify(units, principal, str(upload)))
        return run_with_retry(units.write, lambda uow: _publish(uow, principal, repository, str(upload), facts))
    except (CoreError, DomainError) as error:
        passes = isinstance(error, DomainError) and (error.kind in PASSING or error.code in WAITS)
        run_with_retry(units.write, lambda uow: _take_back(uow, repository, upload, keep=passes or said is not None))
        raise


def _draft(uow: UnitOfWork, principal: Principal, repository: Repository, said: Said | None) -> str | None:
    """Opens an upload of what was pushed, whose bytes are there already; its id, None where nobody knows its base."""
    push = _push(uow, repository)
    files = {file["path"]: file for file in push.files}
    family, trained_on = _base(uow, principal, repository, files, said)
    patch = pushes.patch_of(uow, repository)
    if family and patch is None:
        patch, _ = patches.create(uow, principal, repository.owner, repository.name, family, announced=True)
    push.patch_id = patch.id if patch else None
    if patch is None or trained_on is None:
        push.waits = _waits(uow, repository).to_problem()
        return None
    announced = [_announced(uow, file) for file in files.values()]
    version, is_new = drafts.draft(uow, principal, repository.owner, repository.name, trained_on, announced)
    version.dropped = sorted({*version.dropped, *push.dropped}) if is_new else version.dropped
    return version.id


def _push(uow: UnitOfWork, repository: Repository) -> Push:
    push = pushes.find(uow, repository)
    assert push is not None  # noqa: S101  whoever has the turn has just read it
    return push


def _base(
    uow: UnitOfWork, principal: Principal, repository: Repository, files: Files, said: Said | None
) -> tuple[str | None, str | None]:
    """Names of the family and of the release that a push was trained on, as far as they are known."""
    config, patch = pushes.read_config(uow, files), pushes.patch_of(uow, repository)
    found = base_aliases.find(uow, principal, config.base_model, config.revision) if config else None
    if said:
        if said.family and patch and said.family != patch.family.name:
            raise DomainError("patch.other_family", patch=patch.full_name, family=patch.family.name, asked=said.family[:100])
        return said.family or (patch.family.name if patch else found.family.name if found else None), said.trained_on
    if patch is None:
        return (found.family.name, found.release.name if found.release else None) if found else (None, None)
    if found and found.family.id != patch.family_id:
        raise DomainError("patch.other_family", patch=patch.full_name, family=patch.family.name, asked=found.family.name)
    return patch.family.name, (found.release.name if found and found.release else None) or patch.trained_on


def _waits(uow: UnitOfWork, repository: Repository) -> DomainError:
    if patch := pushes.patch_of(uow, repository):
        return DomainError("push.release_unknown", repository=repository.full_name, family=patch.family.name)
    config = pushes.read_config(uow, {file["path"]: file for file in _push(uow, repository).files})
    base = (config.base_model if config else None) or ""
    return DomainError("push.base_unknown", repository=repository.full_name, base=base[:200])


def _announced(uow: UnitOfWork, file: dict[str, object]) -> drafts.AnnouncedFile:
    path, size, sha256 = str(file["path"]), int(str(file["size"])), str(file["sha256"])
    if file["object"] is None:
        return drafts.AnnouncedFile(path, size, sha256, kept=True)
    row = rows.pushed(uow.session, str(file["object"]))
    if row is None or row.staged is None:
        raise DomainError("push.lost", path=path)
    row.charged = 0  # from now on they count as the draft's
    uow.session.flush()
    return drafts.AnnouncedFile(path, size, sha256, row.staged, kept=row.multipart is None)


def _publish(
    uow: UnitOfWork, principal: Principal, repository: Repository, upload: str, facts: dict[str, object]
) -> PatchVersion:  # fmt: skip
    version = drafts.publish(uow, principal, upload, facts)
    uow.session.flush()
    newest = patch_rows.newest_version(uow.session, version.patch_id)
    if newest is not None and newest.number != version.number:
        raise DomainError("push.older", repository=repository.full_name, version=version.number)
    if push := pushes.find(uow, repository):
        pushes.end(uow, push)
    return version


def _take_back(uow: UnitOfWork, repository: Repository, upload: str | None, keep: bool) -> None:
    """Takes back the upload that a push was to be; the push itself too, unless it is kept for another try."""
    version = patch_rows.version(uow.session, upload) if upload else None
    if version and version.state == "draft":
        version.state = move("version", version.state, "discarded")
    push = pushes.find(uow, repository)
    if push is None:
        return
    if not keep:
        pushes.end(uow, push, keep_announced=True)
        return
    for row in rows.objects(uow.session, [file["object"] for file in push.files if file["object"]]):
        row.charged = row.size
