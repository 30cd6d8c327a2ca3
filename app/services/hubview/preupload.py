"""What a client is told before it pushes: how each file is to be sent, which it need not send, and which belong to no patch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from app.core.adapter import WEIGHTS_FILE
from app.core.checkpoint import CODE, FOREIGN_WEIGHTS
from app.core.patch import KEPT_FILES, PICKLED_WEIGHTS
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.domain.repositories import MAIN, Repository
from app.services.access.quotas import require_room
from app.services.hubview import base_pushes, pushes
from app.services.hubview.pushes import REGULAR_BYTES, PushState
from app.services.unit_of_work import UnitOfWork
from app.services.uploads.pushed_objects import owner_of, require_push

Mode = Literal["lfs", "regular"]
SAFETENSORS = ".safetensors"


@dataclass(frozen=True)
class Offer:
    """How a file is to be sent.

    Attributes:
        oid: of what is there under its name now: sha256 where it is sent by LFS, else git's blob id; None where it is another
            mode's, or nothing. Clients leave out what has not changed.
    """

    path: str
    mode: Mode
    ignored: bool
    oid: str | None


@dataclass(frozen=True)
class Offers:
    """How a client must upload each of its files, in the order of the request.

    Attributes:
        dropped: those that belong to no patch and will not be sent.
        is_noted: whether `pushes.note_dropped` has nothing to record.
    """

    files: list[Offer]
    dropped: list[str]
    is_noted: bool


def offer(uow: UnitOfWork, principal: Principal, repository: Repository, revision: str, announced: Mapping[str, int]) -> Offers:
    """Returns how a client must upload the files that it wants to push, given by path and size in bytes.

    Raises:
        DomainError: hub.repository, push.revision, push.base_revision, push.released, request.too_large, quota.exceeded,
            token.scope.
        AdapterError: adapter.pickle.
    """
    state = require_target(uow, principal, repository, revision)
    if state:
        pushes.require_no_pickle(repository, announced, state.files)
    # Of the newest version, not of a draft: a client that found all of it unchanged would make no commit, and end nothing.
    files = state.newest if state else {}
    wanted = {path: size for path, size in announced.items() if belongs(repository, path)}
    if state and sum(wanted.values()) > uow.tools.limits.patch_bytes:
        limit = uow.tools.limits.patch_bytes
        raise DomainError("request.too_large", what="the patch", size=sum(wanted.values()), limit=limit)
    # Said here, because clients show nothing of what is answered to the bytes themselves.
    more = sum(size for path, size in wanted.items() if path not in files or files[path]["size"] != size)
    require_room(uow, owner_of(repository), bytes=more)
    found = [_offer(uow, repository, files.get(path), path, size) for path, size in announced.items()]
    dropped = [one.path for one in found if one.ignored]
    return Offers(found, dropped, state is None or not pushes.has_news(state, dropped))


def require_target(uow: UnitOfWork, principal: Principal, repository: Repository, revision: str) -> PushState | None:
    """Returns the state of a patch's repository; None for a base.

    Raises:
        DomainError: unless this revision of the repository can be pushed to: main of a patch, a new release of a base.
    """
    if repository.kind == "base":
        require_push(principal, repository)
        base_pushes.require_new(uow, principal, repository, revision)
        return None
    state = pushes.look(uow, principal, repository)
    if revision != MAIN:
        raise DomainError("push.revision", repository=repository.full_name, revision=revision[:100])
    return state


def sizes(uow: UnitOfWork, principal: Principal, repository: Repository) -> dict[str, int]:
    """Returns the sizes of the files in a patch's repository, by sha256. A base is empty until its release is ingested.

    Raises:
        DomainError: the errors of `require_push`.
    """
    require_push(principal, repository)
    files = pushes.state_of(uow, repository).files if repository.kind == "patch" else {}
    return {file["sha256"]: file["size"] for file in files.values()}


def belongs(repository: Repository, path: str) -> bool:
    """Whether a file is part of what is pushed. Pickled weights are, so that they are refused and not left out silently."""
    if repository.kind == "patch":
        return path in KEPT_FILES or path in PICKLED_WEIGHTS
    pure = PurePosixPath(path)
    if pure.is_absolute() or {"..", "."} & set(path.split("/")) or any(part.startswith(".") for part in pure.parts):
        return False
    return pure.suffix == SAFETENSORS or pure.suffix not in FOREIGN_WEIGHTS | CODE


def _offer(uow: UnitOfWork, repository: Repository, file: dict[str, Any] | None, path: str, size: int) -> Offer:
    mode: Mode = "lfs" if path.endswith(SAFETENSORS) or path == WEIGHTS_FILE or size > REGULAR_BYTES else "regular"
    if not belongs(repository, path):
        return Offer(path, mode, True, None)
    if file is None or (mode == "regular" and file["size"] > REGULAR_BYTES):
        return Offer(path, mode, False, None)
    return Offer(path, mode, False, file["sha256"] if mode == "lfs" else _git_blob(uow, file))


def _git_blob(uow: UnitOfWork, file: dict[str, Any]) -> str:
    """What git calls a file: sha1 over its kind, its size and its bytes."""
    hashed = hashlib.sha1(f"blob {file['size']}\0".encode(), usedforsecurity=False)
    hashed.update(pushes.read_small(uow, file, REGULAR_BYTES))
    return hashed.hexdigest()
