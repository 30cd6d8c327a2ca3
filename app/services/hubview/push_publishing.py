"""Publishes a complete push as a version: determines the release that it was trained on, verifies it and publishes it.

The steps are those of an upload through the REST API (`app.services.patches.drafts`), each in a transaction of its own.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from app.core.delta import PatchConfig
from app.core.errors import CoreError
from app.db import patches as patch_rows
from app.db import pushes as rows
from app.db.patches import Patch, PatchVersion
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import MAIN, Repository
from app.domain.states import move
from app.services.catalog import base_aliases
from app.services.hubview import hub_commits, preupload, pushes, repositories, snapshots
from app.services.hubview.pushes import Change, Recorded
from app.services.hubview.repositories import Adapter
from app.services.patches import drafts, patches, verification
from app.services.patches.drafts import VersionFacts
from app.services.patches.tombstones import reread_if_purged
from app.services.patches.verification import Draft
from app.services.unit_of_work import UnitOfWork, UnitsOfWork, run_with_retry
from app.services.uploads import pushed_objects

# Kinds of errors that are not caused by the pushed files, so a retry may succeed.
PASSING = ("busy", "full", "limited")
# A draft that can be verified, or the error if the base of the push is unknown and must be given by a user.
Opened = Draft | DomainError


@dataclass(frozen=True)
class Committed:
    """The result of a commit: its id, the number of the version that it published (if any), and the files that were left out."""

    commit: str
    version: int | None
    dropped: Sequence[str]


@dataclass(frozen=True)
class Said:
    """What a user gives as the base of a push that does not name one: the release and, only if it is unknown, the family."""

    trained_on: str
    family: str | None = None


def commit(
    units: UnitsOfWork, principal: Principal, repository: Repository, revision: str, parent: str | None,
    changes: Sequence[Change], inline: Mapping[str, bytes],
) -> Committed:  # fmt: skip
    """Records a commit, and publishes a version if the commit completes the repository.

    A complete push that cannot become a version is discarded, and the error gives the reason; one with an unknown base is kept.

    Args:
        units: the registry.
        principal: who pushes.
        repository, revision: to what.
        parent: the commit that the client has read; None: it does not care.
        changes: what the commit does.
        inline: the files that came within the commit (sha256 -> bytes).

    Raises:
        DomainError: push.base_unknown, push.release_unknown (it is kept), patch.other_family, version.trained_on, push.older,
            quota.exceeded, and the errors of `preupload.require_target` and `pushes.record`.
        CoreError: it is no patch that can be added to what it was trained on.
    """

    def record(uow: UnitOfWork) -> Recorded:
        preupload.require_target(uow, principal, repository, revision)
        pushed_objects.keep(uow, principal, repository, files)
        return pushes.record(uow, principal, repository, main, parent, changes)

    def record_and_open(uow: UnitOfWork) -> tuple[Recorded, Opened | None]:
        recorded = record(uow)
        opened = _open(uow, principal, repository, None, recorded.config) if recorded.is_complete else None
        return recorded, opened

    def record_refused(uow: UnitOfWork, error: CoreError | DomainError) -> None:
        record(uow)
        _keep_or_drop(uow, repository, None, _is_passing(error))

    with units.exclusive(f"push:{repository.full_name}", f"A push to {repository.full_name}"):
        main = main_commit(units, principal, repository) if parent is not None else None
        refusal: CoreError | DomainError | None = None
        with pushed_objects.staged(units.tools.blobs, inline) as files:
            try:
                recorded, opened = run_with_retry(units.write, record_and_open)
            except (CoreError, DomainError) as error:
                # If the commit itself was refused, this refuses it again; otherwise the commit is recorded without a version.
                refusal = error
                run_with_retry(units.write, partial(record_refused, error=error))
        if refusal:
            raise refusal
        if opened is None:
            return Committed(recorded.commit or main or main_commit(units, principal, repository), None, recorded.dropped)
        version, name = _publish_opened(units, principal, repository, opened, keep=False)
        return Committed(name or main_commit(units, principal, repository), version.number, recorded.dropped)


def publish(units: UnitsOfWork, principal: Principal, repository: Repository, said: Said) -> PatchVersion:
    """Publishes a push that waits for its base, with the base that a user gives.

    Raises:
        DomainError: push.none, family.unknown, release.unknown, and what `commit` raises.
        CoreError: as of `commit`.
    """

    def open_waiting(uow: UnitOfWork) -> Opened:
        push = pushes.look(uow, principal, repository).push
        if push is None or not pushes.is_complete({file["path"]: file for file in push.files}):
            raise DomainError("push.none", repository=repository.full_name)
        return _open(uow, principal, repository, said, None)

    with units.exclusive(f"push:{repository.full_name}", f"A push to {repository.full_name}"):
        opened = run_with_retry(units.write, open_waiting)
        return _publish_opened(units, principal, repository, opened, keep=True)[0]


def main_commit(units: UnitsOfWork, principal: Principal, repository: Repository) -> str:
    """Returns the commit id of the newest version, or of the empty repository if there is no version."""
    with units.read() as uow:
        thing = repositories.find(uow, principal, repository, MAIN)
        found = snapshots.written(uow, thing)
    return (found or hub_commits.write_missing(units, thing)).commit


def _publish_opened(
    units: UnitsOfWork, principal: Principal, repository: Repository, opened: Opened, keep: bool
) -> tuple[PatchVersion, str | None]:  # fmt: skip
    """Verifies and publishes the draft of a push. If that fails, the push is kept if `keep` is set or a retry may succeed.

    Returns:
        The version, and its commit id (None if it is not recorded).
    """
    if isinstance(opened, DomainError):
        raise opened
    upload, tools, verified = opened.version.id, units.tools, list[str]()
    try:
        facts = reread_if_purged(
            lambda: verification.verify_found(tools, opened, verified),
            lambda: verification.verify(units, principal, upload, verified),
        )
        return run_with_retry(units.write, lambda uow: _publish(uow, principal, repository, upload, facts))
    except (CoreError, DomainError) as error:
        is_kept = keep or _is_passing(error)
        run_with_retry(units.write, lambda uow: _keep_or_drop(uow, repository, upload, is_kept, verified))
        raise


def _open(uow: UnitOfWork, principal: Principal, repository: Repository, said: Said | None, config: PatchConfig | None) -> Opened:
    """Opens a draft of a complete push; returns the error if its base is unknown."""
    state = pushes.look(uow, principal, repository)
    push, patch = state.push, state.patch
    assert push is not None  # noqa: S101  whoever holds the lock has just read or written it
    files = {file["path"]: file for file in push.files}
    config = config or pushes.read_config(uow, files)
    family, trained_on = _base(uow, principal, patch, config, said)
    if family and patch is None:
        patch, _ = patches.create(uow, principal, repository.owner, repository.name, family, announced=True)
    push.patch_id = patch.id if patch else None
    if patch is None or trained_on is None:
        reason = _waits(repository, patch, config)
        push.waits = reason.to_problem()
        return reason
    announced = [_announced(uow, file) for file in files.values()]
    version, is_new = drafts.draft(uow, principal, repository.owner, repository.name, trained_on, announced)
    version.dropped = sorted({*version.dropped, *push.dropped}) if is_new else version.dropped
    return verification.find(uow, principal, version.id)


def _base(
    uow: UnitOfWork, principal: Principal, patch: Patch | None, config: PatchConfig | None, said: Said | None
) -> tuple[str | None, str | None]:
    """Returns the names of the family and the release that a push was trained on, each None if unknown."""
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


def _waits(repository: Repository, patch: Patch | None, config: PatchConfig | None) -> DomainError:
    if patch:
        return DomainError("push.release_unknown", repository=repository.full_name, family=patch.family.name)
    base = (config.base_model if config else None) or ""
    return DomainError("push.base_unknown", repository=repository.full_name, base=base[:200])


def _is_passing(error: CoreError | DomainError) -> bool:
    """Returns whether an error was not caused by the pushed files; the push is then kept, and the same commit can be retried."""
    return isinstance(error, DomainError) and error.kind in PASSING


def _announced(uow: UnitOfWork, file: dict[str, object]) -> drafts.AnnouncedFile:
    path, size, sha256 = str(file["path"]), int(str(file["size"])), str(file["sha256"])
    if file["object"] is None:
        return drafts.AnnouncedFile(path, size, sha256, kept=True)
    row = rows.pushed(uow.session, str(file["object"]))
    if row is None or row.staged is None:
        raise DomainError("push.lost", path=path)
    row.charged = 0  # from now on they count as the draft's
    uow.session.flush()
    return drafts.AnnouncedFile(path, size, sha256, row.staged, kept=row.is_verified)


def _publish(
    uow: UnitOfWork, principal: Principal, repository: Repository, upload: str, facts: VersionFacts
) -> tuple[PatchVersion, str | None]:  # fmt: skip
    version = drafts.publish(uow, principal, upload, facts)
    uow.session.flush()
    newest = patch_rows.newest_version(uow.session, version.patch_id)
    if newest is not None and newest.number != version.number:
        raise DomainError("push.older", repository=repository.full_name, version=version.number)
    if push := pushes.find(uow, repository):
        pushes.end(uow, push)
    uow.handle_events()  # one of the handlers records the commit
    snapshot = snapshots.written(uow, Adapter(newest)) if newest else None
    return version, snapshot.commit if snapshot else None


def _keep_or_drop(
    uow: UnitOfWork, repository: Repository, upload: str | None, keep: bool, verified: Collection[str] = ()
) -> None:  # fmt: skip
    """Discards the draft of a push, if there is one, and also the push itself, unless it is kept for a retry.

    Of a push that is kept, files whose paths are `verified` are in the store already and need not be sent again.
    """
    version = patch_rows.version(uow.session, upload) if upload else None
    if version and version.state == "draft":
        version.state = move("version", version.state, "discarded")
    push = pushes.find(uow, repository)
    if push is None:
        return
    if not keep:
        pushes.end(uow, push, keep_announced=True)
        return
    sent = {file["object"]: file["path"] for file in push.files if file["object"]}
    for row in rows.objects(uow.session, list(sent)):
        row.charged = row.size
        if sent[row.id] in verified:
            row.multipart = None
