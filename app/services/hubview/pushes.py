"""Pushes through the Hub protocol: files that were committed to a patch's repository and are not published yet.

A commit is not a version. Its files are collected in a draft, on top of the files of the newest version, until configuration
and weights are complete; then `app.services.hubview.push_publishing` publishes a version. A commit must name the current head
as its parent, or it is refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.adapter import CONFIG_FILE, MAX_CONFIG_BYTES, WEIGHTS_FILE
from app.core.delta import PatchConfig
from app.core.errors import AdapterError
from app.core.patch import KEPT_FILES, PICKLED_WEIGHTS
from app.core.patch_kinds import parse_config
from app.core.source import read_range
from app.db import patches as patch_rows
from app.db import pushes as rows
from app.db.base import clock
from app.db.commits import NOTHING, name_of
from app.db.patches import Patch
from app.db.pushes import Push
from app.domain.errors import DomainError
from app.domain.events.patches import RepositoryAnnounced, RepositoryForgotten
from app.domain.ids import new_id
from app.domain.principal import Principal
from app.domain.repositories import MAIN, Repository
from app.services.access.quotas import open_account
from app.services.unit_of_work import UnitOfWork
from app.services.uploads import pushed_objects
from app.services.uploads.pushed_objects import PUSHED, require_push

# Up to here a file comes within the commit itself, where it is not weights.
REGULAR_BYTES = 2**20
MAX_DROPPED = 1000


@dataclass(frozen=True)
class Added:
    """A file that a commit adds or replaces; `size` is None where the client does not say it."""

    path: str
    sha256: str
    size: int | None


@dataclass(frozen=True)
class Deleted:
    """A file, or everything below a folder, that a commit removes."""

    path: str
    folder: bool = False


Change = Added | Deleted
Files = dict[str, dict[str, Any]]


def announce(uow: UnitOfWork, principal: Principal, repository: Repository) -> bool:
    """Makes a repository known before anything says of what family its patch is; whether it is new.

    Raises:
        DomainError: quota.exceeded, and what `require_push` raises.
    """
    require_push(principal, repository)
    if patch_of(uow, repository) or rows.find(uow.session, repository.full_name, MAIN):
        return False
    open_account(uow, repository.owner, "patches").charge(patches=1)
    begin(uow, repository, MAIN, None)
    uow.event(RepositoryAnnounced(), principal, repository.owner, repository.full_name)
    return True


def forget(uow: UnitOfWork, principal: Principal, repository: Repository) -> None:
    """Removes a repository that never became a patch; patches are not removed.

    Raises:
        DomainError: hub.repository, push.kept, and what `require_push` raises.
    """
    require_push(principal, repository)
    if patch_of(uow, repository):
        raise DomainError("push.kept", repository=repository.full_name)
    push = rows.find(uow.session, repository.full_name, MAIN)
    if push is None:
        raise DomainError("hub.repository", repository=repository.full_name)
    end(uow, push)
    uow.event(RepositoryForgotten(), principal, repository.owner, repository.full_name)


@dataclass(frozen=True)
class PushState:
    """The state of a patch's repository: the patch, the unpublished push, and number and files of the newest version."""

    patch: Patch | None
    push: Push | None
    number: int | None
    newest: Files

    @property
    def files(self) -> Files:
        """The files as a pushing client sees them, by path: those of the push or, without one, of the newest version.

        If a version was published since the push was begun, the files of the push replace those of that version.
        """
        push = self.push
        if push is None or not push.files:
            return dict(self.newest)
        if push.parent == self.number:
            return {file["path"]: file for file in push.files}
        return self.newest | {file["path"]: file for file in push.files if file["object"]}


def look(uow: UnitOfWork, principal: Principal, repository: Repository) -> PushState:
    """Returns the state of a repository that the principal may push to.

    Raises:
        DomainError: hub.repository, if there is neither a patch nor an announced one; and the errors of `require_push`.
    """
    require_push(principal, repository)
    state = state_of(uow, repository)
    if state.patch is None and state.push is None:
        raise DomainError("hub.repository", repository=repository.full_name)
    return state


def state_of(uow: UnitOfWork, repository: Repository) -> PushState:
    """Returns the state of a patch's repository, even if it was never announced."""
    patch, push = patch_of(uow, repository), find(uow, repository)
    version = patch_rows.newest_version(uow.session, patch.id) if patch else None
    if version is None:
        return PushState(patch, push, None, {})
    return PushState(patch, push, version.number, {file["path"]: {**file, "object": None} for file in version.files})


def patch_of(uow: UnitOfWork, repository: Repository) -> Patch | None:
    return patch_rows.by_name(uow.session, repository.owner, repository.name)


def find(uow: UnitOfWork, repository: Repository) -> Push | None:
    return rows.find(uow.session, repository.full_name, MAIN)


def commit_of(files: Files) -> str:
    """The commit id of a draft."""
    return name_of([(file["path"], file["sha256"]) for file in files.values()]) if files else NOTHING


def is_complete(files: Files) -> bool:
    """Whether this could be a patch."""
    return CONFIG_FILE in files and WEIGHTS_FILE in files


def require_no_pickle(repository: Repository, paths: Iterable[str], files: Files) -> None:
    """Raises `AdapterError` (adapter.pickle) where the weights of a patch would come as a pickle and in no other form."""
    announced = set(paths)
    if repository.kind == "patch" and WEIGHTS_FILE not in announced | set(files):
        for path in PICKLED_WEIGHTS:
            if path in announced:
                raise AdapterError("adapter.pickle", path=path)


@dataclass(frozen=True)
class Recorded:
    """The result of recording a commit.

    Attributes:
        commit: the id of what is pushed now; None if the commit changed nothing.
        is_complete: whether the repository has all files that a version needs.
        dropped: names of files that do not belong to a patch.
        config: the configuration, if the commit changed it.
    """

    commit: str | None
    is_complete: bool
    dropped: list[str]
    config: PatchConfig | None = None


def record(
    uow: UnitOfWork, principal: Principal, repository: Repository, main: str | None, parent: str | None, changes: Sequence[Change]
) -> Recorded:
    """Records a commit in the push of a repository.

    Args:
        uow: the transaction.
        principal: who pushes.
        repository: a patch's.
        main: commit id of the newest version, or of nothing; needed only with a parent.
        parent: the commit on which the client based its commit; None: no check.
        changes: what the commit does, in order.

    Raises:
        DomainError: hub.repository, push.stale, push.not_sent, hub.entry, request.too_large, quota.exceeded.
        AdapterError: adapter.pickle, and errors of the configuration.
    """
    state = look(uow, principal, repository)
    push, files = state.push, state.files
    if parent is not None and parent != commit_of(files):
        if parent != main:
            raise DomainError("push.stale", repository=repository.full_name, head=main, parent=parent)
        files = dict(state.newest)  # the client has not read the abandoned push
    before = dict(files)
    require_no_pickle(repository, [change.path for change in changes if isinstance(change, Added)], files)
    dropped = _apply(uow, repository, files, changes)
    total = sum(file["size"] for file in files.values())
    if total > uow.tools.limits.patch_bytes:
        raise DomainError("request.too_large", what="the patch", size=total, limit=uow.tools.limits.patch_bytes)
    if files == before and files == state.newest:
        if push and not push.files:
            end(uow, push, keep_announced=True)
        return Recorded(None, False, dropped)
    push = push or begin(uow, repository, MAIN, state.patch)
    config = read_config(uow, files) if files.get(CONFIG_FILE) != before.get(CONFIG_FILE) else None
    push.files, push.parent, push.waits = [files[path] for path in sorted(files)], state.number, None
    push.dropped = _joined(push.dropped, dropped)
    push.touched_at = clock(uow.session)
    push.row_version += 1
    uow.session.flush()
    return Recorded(commit_of(files), is_complete(files), dropped, config)


def has_news(state: PushState, dropped: Sequence[str]) -> bool:
    """Returns whether `note_dropped` would change anything."""
    return bool(dropped) if state.push is None else _noted(state.push, dropped) != state.push.dropped


def note_dropped(uow: UnitOfWork, principal: Principal, repository: Repository, dropped: Sequence[str]) -> None:
    """Records the names of files that a client was told not to send, for the version that it is about to push.

    As long as nothing is committed, names that were recorded before belong to a push that was never made, and are replaced.
    """
    state = look(uow, principal, repository)
    if has_news(state, dropped):
        push = state.push or begin(uow, repository, MAIN, state.patch)
        push.dropped = _noted(push, dropped)


def _noted(push: Push, dropped: Sequence[str]) -> list[str]:
    return _joined(push.dropped if push.files else (), dropped)


def _joined(before: Sequence[str], more: Sequence[str]) -> list[str]:
    return sorted({*before, *(path[:200] for path in more)})[:MAX_DROPPED]


def read_config(uow: UnitOfWork, files: Files) -> PatchConfig | None:
    """The configuration that was pushed; None where there is none.

    Raises:
        AdapterError: adapter.invalid_config, or the code of the first feature that is not supported.
    """
    file = files.get(CONFIG_FILE)
    return parse_config(read_small(uow, file, MAX_CONFIG_BYTES + 1)) if file else None


def read_small(uow: UnitOfWork, file: dict[str, Any], most: int) -> bytes:
    """The beginning of a pushed file, wherever it is now."""
    blobs, row = uow.tools.blobs, rows.pushed(uow.session, file["object"]) if file["object"] else None
    if row and row.staged and blobs.received(row.staged, PUSHED) == file["size"]:
        source, path = blobs.staged(row.staged, PUSHED), ""
    elif row and row.multipart:  # never hashed here: what the store has by that digest may be somebody else's
        raise DomainError("push.lost", path=file["path"])
    else:
        source, path = blobs.open({"file": file["sha256"]}), "file"
    try:
        return bytes(read_range(source, path, 0, min(file["size"], most)))
    finally:
        source.close()


def end(uow: UnitOfWork, push: Push, keep_announced: bool = False) -> None:
    """Drops a draft and what was sent for it alone; an announced repository may stay, empty."""
    pushed_objects.forget(uow, [file["object"] for file in push.files if file["object"]])
    if keep_announced and push.patch_id is None:
        push.files, push.dropped, push.waits = [], [], None
        push.row_version += 1
    else:
        uow.session.delete(push)
    uow.session.flush()


def begin(uow: UnitOfWork, repository: Repository, revision: str, patch: Patch | None) -> Push:
    """Adds an empty push.

    Raises:
        DomainError: quota.exceeded.
    """
    owner = pushed_objects.owner_of(repository)
    open_account(uow, owner, "drafts").charge(drafts=1)
    push = Push(
        id=new_id("psh"), created_at=clock(uow.session), owner=owner, repository=repository.full_name, revision=revision,
        patch_id=patch.id if patch else None, files=[], dropped=[], parent=None, waits=None, touched_at=clock(uow.session),
    )  # fmt: skip
    uow.add(push)
    return push


def _apply(uow: UnitOfWork, repository: Repository, files: Files, changes: Sequence[Change]) -> list[str]:
    """Does to the files what a commit says; the names of those that do not belong to a patch."""
    dropped, known = list[str](), {file["sha256"]: file for file in files.values()}
    for change in changes:
        if isinstance(change, Deleted):
            gone = [path for path in files if path == change.path or (change.folder and path.startswith(f"{change.path}/"))]
            if not gone and change.path in KEPT_FILES:
                raise DomainError("hub.entry", repository=repository.full_name, path=change.path, revision=MAIN)
            for path in gone:
                del files[path]
        elif change.path not in KEPT_FILES:
            dropped.append(change.path[:200])
        elif (there := files.get(change.path)) and there["sha256"] == change.sha256:
            continue
        else:
            files[change.path] = _named(uow, repository, change, known)
    return dropped


def _named(uow: UnitOfWork, repository: Repository, change: Added, known: Files) -> dict[str, Any]:
    if found := pushed_objects.sent(uow, repository, change.path, change.sha256, change.size):
        return found
    held = known.get(change.sha256)
    if held and change.size in (None, held["size"]):  # the same bytes under another of its own names
        return {**held, "path": change.path}
    raise not_sent(repository, change)


def not_sent(repository: Repository, change: Added) -> DomainError:
    return DomainError("push.not_sent", path=change.path[:200], digest=change.sha256[:64], repository=repository.full_name)
