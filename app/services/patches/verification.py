"""Verifies the uploaded files of a draft: that they are complete, match their digests, and are a patch.

Rows are read in a transaction that ends before the first byte is hashed: hashing may take long, and an open transaction would
keep a connection from other requests and hold back the database's vacuum.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

from app.core.errors import CATALOGUE as CORE
from app.core.errors import AdapterError, CoreError, HeaderError, PortError
from app.core.front_matter import front_matter_of
from app.core.patch import Patch, check_finite
from app.db import patches as rows
from app.db.patches import PatchVersion
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.services.access.quotas import require_room
from app.services.patches import draft_files, drafts
from app.services.patches.drafts import VersionFacts
from app.services.tools import Tools
from app.services.unit_of_work import UnitOfWork, UnitsOfWork


@dataclass(frozen=True)
class Draft:
    """A draft as it was read; `facts` is set if its bytes need no verification, because they are already a version."""

    version: PatchVersion
    facts: VersionFacts | None = None


def find(uow: UnitOfWork, principal: Principal, upload: str) -> Draft:
    """Returns a draft that the principal may publish; reads only its row, none of its bytes.

    Raises:
        DomainError: upload.unknown, token.scope, version.purged, quota.exceeded; the recorded refusal, if the draft was refused
            before and has not changed since.
        CoreError: the recorded refusal, if the files were not a patch.
    """
    if ended := drafts.settled(uow, principal, upload):
        return Draft(ended, VersionFacts(ended.facts or {}))
    version = drafts.open_upload(uow, principal, upload)
    drafts.require_not_purged(uow, version.owner, version.digest)
    existing = rows.version_by_digest(uow.session, version.patch_id, version.digest)
    if existing and existing.facts:
        return Draft(version, VersionFacts(existing.facts))
    require_room(uow, version.owner, versions=1)  # checked before bytes are moved: uploaded bytes stay staged until there is room
    if version.refusal and not _is_sent_again(uow.tools, version, version.refusal):
        raise _remembered(version.refusal)
    return Draft(version)


def verify(units: UnitsOfWork, principal: Principal, upload: str, verified: list[str] | None = None) -> VersionFacts:
    """Verifies the uploaded files of a draft and moves them into the store; writes no row, so nothing becomes visible.

    Args:
        verified: filled with the paths of files that were verified and are in the store; pass it to `refuse` after a refusal.

    Returns:
        The facts that `uploads.publish` takes.

    Raises:
        DomainError: upload.incomplete, upload.digest, server.busy, and the errors of `find`.
        CoreError: the uploaded files are not a patch, or do not fit the release that they name.
    """
    with units.read() as uow:
        draft = find(uow, principal, upload)
    return verify_found(units.tools, draft, verified)


def verify_found(tools: Tools, draft: Draft, verified: list[str] | None = None) -> VersionFacts:
    """Does the same for a draft that `find` returned; its transaction must have ended."""
    if draft.facts is not None:
        return draft.facts
    _take(tools, draft.version, [] if verified is None else verified)
    return facts_of(tools, draft.version)


def refuse(uow: UnitOfWork, principal: Principal, upload: str, verified: Sequence[str], error: CoreError | DomainError) -> None:
    """Records which files of a refused draft were verified, so that only the others must be sent again.

    A refusal that is caused by the bytes is recorded too: it is repeated until a file changes.

    Raises:
        DomainError: upload.unknown.
    """
    version = drafts.open_upload(uow, principal, upload)
    uow.lock(version)
    version.files = draft_files.mark(version.files, verified)
    if isinstance(error, HeaderError | AdapterError | PortError) or error.code == "upload.digest":
        version.refusal = {"code": error.code, "data": error.data}


def facts_of(tools: Tools, version: PatchVersion, read_values: bool = True) -> VersionFacts:
    """Checks the whole patch against the release that it names as its base; returns the facts about it.

    Args:
        tools: the store and the library.
        version: a draft whose bytes are in the store.
        read_values: False for a job, which has already read all values. It then needs no slot, because few jobs run at once.

    Raises:
        DomainError: server.busy.
        CoreError: the files are not a patch, or do not fit the release that they name.
    """
    with ExitStack() as stack:
        # Only the memory-hungry part needs a place; the values are read in small pieces.
        with tools.checks.hold(version.owner) if read_values else nullcontext():
            opened = stack.enter_context(tools.artifacts.open_patch(version))
            _require_fit(tools, version, opened.patch)
        if read_values:
            check_finite(opened.patch, opened.source, tools.arithmetic())
        adapter = opened.patch.adapter
        summary = {
            **adapter.summary(),
            "modules": len(adapter.modules),
            "parameters": sum(math.prod(t.shape) for t in opened.patch.header.tensors),
            "base_model": opened.patch.config.base_model,
            "targets": sorted({module.rpartition(".")[2] for module in adapter.modules}),
        }
        return VersionFacts(summary, front_matter_of(opened.source, opened.digests))


def _require_fit(tools: Tools, version: PatchVersion, patch: Patch) -> None:
    """Raises `CoreError` if a patch does not fit the release that it was trained on, or cannot fit any release."""
    if version.trained_on:
        patch.resolve(tools.artifacts.manifest(version.trained_on).checkpoint)
    else:  # patterns that are invalid or too slow to match are useless on any release
        patch.adapter.require_affordable()


def _take(tools: Tools, version: PatchVersion, verified: list[str]) -> None:
    """Moves the uploaded files into the store, one by one, each verified by its digest."""
    blobs = tools.blobs
    missing = [(i, f) for i, f in enumerate(draft_files.mark(version.files, verified)) if not draft_files.is_kept(tools, f)]
    for index, file in missing:
        if (arrived := draft_files.arrived(tools, version, index)) != file["size"]:
            raise DomainError("upload.incomplete", path=file["path"], received=arrived, size=file["size"])
    promoted = set[tuple[str, str]]()
    for index, file in missing:
        staged, multipart = draft_files.place(version, index), (version.multiparts or {}).get(file["path"])
        if staged in promoted:  # files of a push that have the same bytes are staged once
            verified.append(file["path"])
            continue
        if multipart and blobs.direct and blobs.received(*staged) != file["size"]:
            blobs.direct.complete(*staged, multipart)
        blobs.promote(*staged, file["sha256"], file["path"], draft_files.is_hashed(file))
        promoted.add(staged)
        verified.append(file["path"])


def _is_sent_again(tools: Tools, version: PatchVersion, refusal: dict[str, Any]) -> bool:
    """Returns whether a file that was refused for its digest, and dropped, has been uploaded again.

    The new bytes may have arrived before the refusal was recorded; the recorded refusal would then be outdated.
    """
    if refusal["code"] != "upload.digest":
        return False
    refused = refusal["data"]["path"]
    return any(f["path"] == refused and draft_files.arrived(tools, version, i) == f["size"] for i, f in enumerate(version.files))


def _remembered(refusal: dict[str, Any]) -> CoreError | DomainError:
    """Returns a recorded refusal as the error that was raised the first time."""
    kind = CoreError if refusal["code"] in CORE else DomainError
    return kind(refusal["code"], **refusal["data"])
