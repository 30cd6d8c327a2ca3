"""Pushes by the Hub protocol: what was committed to a patch's repository and is no version yet.

A commit is not a version. Its files are collected in a draft, on top of the files of the newest version, until configuration
and weights are complete; then `app.services.hubview.push_publishing` publishes a version. A commit must name the current head
as its parent, or it is refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.core.adapter import CONFIG_FILE, MAX_CONFIG_BYTES, WEIGHTS_FILE, AdapterConfig, parse_config
from app.core.errors import AdapterError
from app.core.patch import KEPT_FILES, PICKLED_WEIGHTS
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
    open_account(uow, repository.owner, "patches", "drafts").charge(patches=1, drafts=1)
    _begin(uow, repository, None)
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


def require_known(uow: UnitOfWork, principal: Principal, repository: Repository) -> None:
    """Raises `DomainError` (hub.repository) where there is neither a patch nor an announced one; and what `require_push` does."""
    require_push(principal, repository)
    if not patch_of(uow, repository) and rows.find(uow.session, repository.full_name, MAIN) is None:
        raise DomainError("hub.repository", repository=repository.full_name)


def patch_of(uow: UnitOfWork, repository: Repository) -> Patch | None:
    return patch_rows.by_name(uow.session, repository.owner, repository.name)


def find(uow: UnitOfWork, repository: Repository) -> Push | None:
    return rows.find(uow.session, repository.full_name, MAIN)


def files_of(uow: UnitOfWork, repository: Repository) -> Files:
    """What the repository holds for whoever pushes to it, by path: the draft, or else the newest version."""
    push, newest = find(uow, repository), published(uow, repository)
    if push is None or not push.files:
        return newest[1]
    return _rebased(push, *newest)


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


def record(
    uow: UnitOfWork, principal: Principal, repository: Repository, main: str, parent: str | None, changes: Sequence[Change]
) -> tuple[Push | None, list[str]]:
    """Takes a commit into the draft of a repository.

    Args:
        uow: the transaction.
        principal: who pushes.
        repository: a patch's.
        main: commit id of the newest version, or of nothing.
        parent: the commit that the client has read; None: it does not care.
        changes: what the commit does, in order.

    Returns:
        The draft, None where nothing changed; and the names of files that do not belong to a patch.

    Raises:
        DomainError: hub.repository, push.stale, push.not_sent, hub.entry, request.too_large, quota.exceeded.
        AdapterError: adapter.pickle, and whatever is wrong with the configuration.
    """
    require_known(uow, principal, repository)
    push, (number, newest) = find(uow, repository), published(uow, repository)
    files = _rebased(push, number, newest) if push and push.files else dict(newest)
    if parent is not None and parent != commit_of(files):
        if parent != main:
            raise DomainError("push.stale", repository=repository.full_name, head=main, parent=parent)
        files = dict(newest)  # what was begun by somebody who gave up is not what the client has read
    before = dict(files)
    require_no_pickle(repository, [change.path for change in changes if isinstance(change, Added)], files)
    dropped = _apply(uow, repository, files, changes)
    total = sum(file["size"] for file in files.values())
    if total > uow.tools.limits.patch_bytes:
        raise DomainError("request.too_large", what="the patch", size=total, limit=uow.tools.limits.patch_bytes)
    if files == before and files == newest:
        if push and not push.files:
            end(uow, push, keep_announced=True)
        return None, dropped
    if push is None:
        open_account(uow, repository.owner, "drafts").charge(drafts=1)
        push = _begin(uow, repository, patch_of(uow, repository))
    if files.get(CONFIG_FILE) != before.get(CONFIG_FILE):
        read_config(uow, files)
    push.files, push.parent, push.waits = [files[path] for path in sorted(files)], number, None
    push.dropped = _joined(push.dropped, dropped)
    push.touched_at = clock(uow.session)
    push.row_version += 1
    return push, dropped


def note_dropped(uow: UnitOfWork, principal: Principal, repository: Repository, dropped: Sequence[str]) -> None:
    """Remembers names of files that a client was told not to send, for the version that it is about to push.

    While nothing is committed, what was told before was told for a push that came to nothing.
    """
    require_known(uow, principal, repository)
    push = find(uow, repository)
    if push is None and not dropped:
        return
    if push is None:
        open_account(uow, repository.owner, "drafts").charge(drafts=1)
        push = _begin(uow, repository, patch_of(uow, repository))
    push.dropped = _joined(push.dropped if push.files else (), dropped)


def _joined(before: Sequence[str], more: Sequence[str]) -> list[str]:
    return sorted({*before, *(path[:200] for path in more)})[:MAX_DROPPED]


def read_config(uow: UnitOfWork, files: Files) -> AdapterConfig | None:
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


def _begin(uow: UnitOfWork, repository: Repository, patch: Patch | None) -> Push:
    push = Push(
        id=new_id("psh"), created_at=clock(uow.session), owner=repository.owner, repository=repository.full_name, revision=MAIN,
        patch_id=patch.id if patch else None, files=[], dropped=[], parent=None, waits=None, touched_at=clock(uow.session),
    )  # fmt: skip
    uow.add(push)
    return push


def published(uow: UnitOfWork, repository: Repository) -> tuple[int | None, Files]:
    """Number and files of the newest version."""
    patch = patch_of(uow, repository)
    version = patch_rows.newest_version(uow.session, patch.id) if patch else None
    if version is None:
        return None, {}
    return version.number, {file["path"]: {**file, "object": None} for file in version.files}


def _rebased(push: Push, number: int | None, published: Files) -> Files:
    """The files of a draft; where a version was published since it was begun, what was pushed to it lies on top of that."""
    if push.parent == number:
        return {file["path"]: file for file in push.files}
    return published | {file["path"]: file for file in push.files if file["object"]}


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
    row = pushed_objects.named(uow, repository, change.sha256, change.size)
    if row:
        return {"path": change.path, "size": row.size, "sha256": row.digest, "object": row.id}
    held = known.get(change.sha256)
    if held and change.size in (None, held["size"]):  # the same bytes under another of its own names
        return {**held, "path": change.path}
    raise DomainError("push.not_sent", path=change.path[:200], digest=change.sha256[:64], repository=repository.full_name)
