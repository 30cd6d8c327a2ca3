"""Erases the bytes of a purged version wherever they are stored. Idempotent; maintenance resumes an interrupted erasure.

Bytes count as removed only when the store no longer finds them. Bytes that other rows reference stay; garbage collection removes
them after the last reference is gone.
"""

import datetime as dt
from collections.abc import Callable
from typing import Any

from app.blobs.s3 import erase as s3_erase
from app.blobs.s3.erase import Other
from app.db import blob_refs, materialisations, patches, pushes, releases
from app.db.base import clock
from app.db.blob_nouns import NOUNS
from app.db.materialisations import Materialisation
from app.db.patches import PURGED, PatchVersion
from app.domain.errors import DomainError
from app.domain.events.patches import VersionErased
from app.domain.principal import INSTALLATION, Principal
from app.domain.s3_uri import S3Uri
from app.services.operations import garbage_collection
from app.services.patches.tombstones import bury
from app.services.tools import Tools
from app.services.unit_of_work import UnitOfWork, UnitsOfWork

PENDING, DONE = "pending", "done"
# A process that wrote a merged model when its version was purged may go on for as long as its worker waits for a database that
# is away (`app.jobs.engine.PATIENCE`): its place is looked at until then.
SETTLE = dt.timedelta(minutes=15)
SHOWN = 5
STILL_THERE = "They are there still: somebody may be sending the same bytes, or copying a release that has them."

Report = dict[str, Any]


def begin(present: dt.datetime, running: bool) -> Report:
    """What is known when the tombstone is made.

    Args:
        present: by the database's clock.
        running: whether a merged model was being written somewhere.
    """
    settles = present + SETTLE if running else present
    return {"state": PENDING, "blobs": [], "copies": [], "waits_for": None, "checked_at": None, "settles_at": settles.isoformat()}


def erase(units: UnitsOfWork, ident: str) -> None:
    """Erases the remaining bytes of a purged version and records the result; idempotent.

    Args:
        registry: the registry.
        ident: the version's id.

    Raises:
        DomainError: errors of the database. Failures of the store are recorded in the result instead.
    """
    staged = _staged(units, ident)
    copies = [_erase_copy(units, row) for row in _written(units, ident)]
    _keep(units, ident, _blobs(units, ident), copies, staged)


def verify(units: UnitsOfWork, ident: str) -> Report:
    """Asks the stores now what is there of a purged version; changes nothing.

    Returns:
        A report like that of the erasure; `state` is done where nothing is there that no other version names.
    """
    copies = [_look_at_copy(units, row) for row in _written(units, ident)]
    with units.read() as uow:
        row = _row(uow, ident)
        kept, before, present = _kept_for(uow, row), row.erasure or {}, clock(uow.session)
    blobs = [_asked(units.tools, file, kept, None) for file in row.files]
    return _report(blobs, copies, None, present, before)


def _staged(units: UnitsOfWork, ident: str) -> str | None:
    """Drops what was sent for this version, and for drafts of the same bytes, which can never be published; why it could not."""
    try:
        for upload in _forget_pushed(units, ident):
            units.tools.blobs.erase_upload(upload)
        with units.exclusive(f"upload:{ident}", f"The upload {ident}"):
            units.tools.blobs.erase_upload(ident)
        for upload, patch in _bury_drafts(units, ident):
            # An upload or push that is being verified would put its bytes into the store after this check. Erasure waits for it
            # and checks again later.
            with (
                units.exclusive(f"upload:{upload}", f"The upload {upload}"),
                units.exclusive(f"push:{patch}", f"A push to {patch}"),
            ):
                units.tools.blobs.erase_upload(upload)
    except DomainError as error:
        return error.detail
    return None


def _forget_pushed(units: UnitsOfWork, ident: str) -> list[str]:
    """Forgets what the same owner has pushed of the same bytes, and blocks that may hold any; the uploads that hold them."""
    with units.write() as uow:
        row = _row(uow, ident)
        found = pushes.of_digests(uow.session, row.owner, _digests(row))
        pushes.remove(uow.session, [one.id for one in found])
        return [upload for one in found for upload in {one.staged, one.attempt, one.id if one.multipart else None} if upload]


def _bury_drafts(units: UnitsOfWork, ident: str) -> list[tuple[str, str]]:
    """Turns drafts of the same owner that announced the same bytes into tombstones; returns their ids and patches."""
    with units.write() as uow:
        row = _row(uow, ident)
        found = patches.unpublished_of(uow.session, row.owner, row.digest)
        for draft in found:
            uow.lock(draft)
            if draft.state in ("draft", "discarded"):
                bury(draft)
                draft.purged_at, draft.purged_by = row.purged_at, row.purged_by
                draft.purge_reason, draft.erased_at = row.purge_reason, row.purged_at
        return [(draft.id, draft.patch.full_name) for draft in found if draft.state == PURGED]


# -- merged models


def _written(units: UnitsOfWork, ident: str) -> list[Materialisation]:
    """One for each place that a merged model of the version was ever to be written to, whatever became of it."""
    with units.read() as uow:
        found = materialisations.of_version(uow.session, ident)
    return list({(row.target, row.port.fingerprint): row for row in found}.values())


def copies_left(units: UnitsOfWork, row: Materialisation) -> int:
    """How many objects of a merged model are at its place, those that a bucket keeps hidden too.

    Raises:
        DomainError: place.not_allowed, storage.unavailable, storage.refused.
    """
    place, others = _reach(units, row)
    return len(s3_erase.copies(place, row.port.fingerprint, others))


def _reach(units: UnitsOfWork, row: Materialisation) -> tuple[S3Uri, list[Other]]:
    """A place that may be touched, and who else is there."""
    place = S3Uri.parse(row.target)
    place.require_below(units.tools.allowed_s3)
    with units.read() as uow:
        found = materialisations.living_below(uow.session, row.target)
    return place, [Other(S3Uri.parse(other.target), other.port.fingerprint) for other in found]


def _erase_copy(units: UnitsOfWork, row: Materialisation) -> Report:
    return _copy(units, row, lambda place, others: s3_erase.erase(place, row.port.fingerprint, others))


def _look_at_copy(units: UnitsOfWork, row: Materialisation) -> Report:
    return _copy(units, row, lambda place, others: (0, len(s3_erase.copies(place, row.port.fingerprint, others))))


def _copy(units: UnitsOfWork, row: Materialisation, act: Callable[[S3Uri, list[Other]], tuple[int, int]]) -> Report:
    report: Report = {"target": row.target, "removed": False, "objects": 0, "kept_for": None, "problem": None}
    try:
        place, others = _reach(units, row)
        removed, left = act(place, others)
    except DomainError as error:
        return {**report, "problem": _told(error)}
    if any(other == Other(place, row.port.fingerprint) for other in others):
        return {**report, "objects": removed, "kept_for": "a port of another version of the same bytes, which wrote it too"}
    return {**report, "objects": removed, "removed": not left, "problem": f"{left} objects are there still." if left else None}


# -- blobs


def _blobs(units: UnitsOfWork, ident: str) -> list[Report]:
    """Removes the bytes that no other row references; returns a report on each of them."""
    with units.read() as uow:
        row = _row(uow, ident)
    digests, problem = _digests(row), None
    try:
        for start in range(0, len(digests), garbage_collection.BATCH):
            batch = digests[start : start + garbage_collection.BATCH]
            if garbage_collection.remove(units.write, batch, _erase_blob) is None:
                problem = "Others were just publishing."
    except DomainError as error:
        problem = error.detail
    with units.read() as uow:
        kept = _kept_for(uow, row)
    return [_asked(units.tools, file, kept, problem) for file in row.files]


def _erase_blob(uow: UnitOfWork, digest: str) -> bool:
    # A release that is being copied references its bytes only after all have arrived; until then, only older bytes are removed.
    least = garbage_collection.BLOB_GRACE.total_seconds() if releases.is_copying(uow.session) else float("-inf")
    return uow.tools.blobs.erase(digest, older_than=least)


def _asked(tools: Tools, file: dict[str, Any], kept: dict[str, str], problem: str | None) -> Report:
    """Asks the store for the bytes of a file; returns the report on them."""
    digest = file["sha256"]
    report: Report = {"digest": digest, "size": file["size"], "removed": False, "kept_for": None, "problem": None}
    try:
        there = tools.blobs.traces(digest)
    except DomainError as error:
        if error.code == "storage.hidden" and digest in kept:  # they stay anyway, old versions and new
            return {**report, "kept_for": kept[digest]}
        return {**report, "problem": _told(error)}
    if not there:
        return {**report, "removed": True}
    if digest in kept:
        return {**report, "kept_for": kept[digest]}
    return {**report, "problem": problem or STILL_THERE}


def _told(error: DomainError) -> str:
    """Returns the text of an error for a report; includes the remedy if waiting does not help."""
    return f"{error.detail} {error.remedy}" if error.code == "storage.hidden" else error.detail


def _digests(row: PatchVersion) -> list[str]:
    return list(dict.fromkeys(file["sha256"] for file in row.files))


def _kept_for(uow: UnitOfWork, row: PatchVersion) -> dict[str, str]:
    """Returns which other rows keep bytes of a version, by digest; rows of other owners are not named.

    Files that are being pushed or downloaded do not count. They are published or removed within days, and until then nobody has
    checked that they have these bytes; the erasure stays pending.
    """
    reasons = dict[str, set[str]]()
    for noun in (noun for noun in NOUNS if noun.is_stored or noun.model is PatchVersion):
        for digest, holder in blob_refs.holders(uow.session, noun, _digests(row)):
            others = f"a {noun.name}" if noun.owner(holder) == INSTALLATION else f"a {noun.name} of another owner"
            reasons.setdefault(digest, set()).add(noun.title(holder) if noun.owner(holder) == row.owner else others)
    return {digest: _sentence(sorted(said)) for digest, said in reasons.items()}


def _sentence(said: list[str]) -> str:
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return ", ".join(said[:SHOWN]) + more


# -- the report


def _row(uow: UnitOfWork, ident: str) -> PatchVersion:
    row = patches.version(uow.session, ident)
    assert row is not None  # noqa: S101  nothing deletes versions
    return row


def _keep(units: UnitsOfWork, ident: str, blobs: list[Report], copies: list[Report], waits_for: str | None) -> None:
    with units.write() as uow:
        row = _row(uow, ident)
        uow.lock(row)
        before = row.erasure or {}
        row.erasure = report = _report(blobs, copies, waits_for, clock(uow.session), before)
        if report["state"] == DONE and row.erased_at is None:
            row.erased_at = clock(uow.session)
            row.row_version += 1
            actor = Principal(INSTALLATION, frozenset({"admin"}), "erasure")
            kept = sum(blob["kept_for"] is not None for blob in blobs)
            subject = f"{row.patch.full_name}@{row.number}"
            uow.event(VersionErased(blobs=len(blobs) - kept, kept=kept, copies=len(copies)), actor, row.owner, subject)


def _report(
    blobs: list[Report], copies: list[Report], waits_for: str | None, present: dt.datetime, before: Report
) -> Report:  # fmt: skip
    counted = {copy["target"]: copy["objects"] for copy in before.get("copies", ())}
    copies = [{**copy, "objects": copy["objects"] + counted.get(copy["target"], 0)} for copy in copies]
    settles = dt.datetime.fromisoformat(before["settles_at"])
    if waits_for is None and copies and present < settles:
        waits_for = f"Its places are looked at until {settles:%Y-%m-%d %H:%M} UTC, for a process that may still be writing there."
    ended = all(part["removed"] or part["kept_for"] for part in [*blobs, *copies])
    return {
        "state": DONE if ended and waits_for is None else PENDING, "blobs": blobs, "copies": copies, "waits_for": waits_for,
        "checked_at": present.isoformat(), "settles_at": before["settles_at"],
    }  # fmt: skip
