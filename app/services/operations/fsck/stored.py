"""Checks of the store: bytes against their digests, references of rows to bytes, and staged bytes."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Protocol

from app.core.errors import CoreError
from app.core.source import Source, read_range
from app.db import blob_refs, patches
from app.db.blob_nouns import NOUNS, Noun
from app.db.blob_refs import StoredBlob
from app.db.releases import Release
from app.domain.errors import DomainError
from app.services.operations import garbage_collection
from app.services.operations.abandoned_uploads import DRAFT_AGE
from app.services.operations.fsck.troubles import Trouble
from app.services.tools import OpenArtifacts, Tools
from app.services.unit_of_work import UnitsOfWork

PAGE = 200
CHUNK = 4 * 2**20
DRAFTS = "ver_"
# Errors of parsing an invalid manifest.
UNREADABLE = (CoreError, ValueError, KeyError, TypeError)


class Tell(Protocol):
    """Reports progress: what is checked, how much has been done, and the total (None if unknown)."""

    def __call__(self, what: str, done: int, total: int | None, /) -> None: ...


def manifest(artifacts: OpenArtifacts, row: Release) -> Iterator[Trouble]:
    """Checks that the manifest of a release can be parsed, if its bytes are in the store."""
    if row.manifest is None:
        return
    try:
        artifacts.manifest(row)
    except DomainError as error:
        if error.code != "blob.missing":  # reported by `blobs`
            raise
    except UNREADABLE:
        yield Trouble("release.unreadable", f"{row.family.name}/{row.name}", f"Its manifest {row.manifest} cannot be read.")


def references(registry: UnitsOfWork, tell: Tell) -> Iterator[Trouble]:
    """Checks that each row that keeps bytes references exactly the digests that it lists, and that no other row has references.

    Rows and their references are written in one transaction and read in one transaction, so they must always match.
    """
    done = 0
    for noun in NOUNS:
        after: str | None = ""
        while after is not None:
            with registry.read() as uow:
                page = blob_refs.page(uow.session, noun, after, PAGE)
            for row, registered in page:
                yield from _references(registry.tools, noun, row, registered)
            done += len(page)
            tell("references", done, None)
            after = noun.id_of(page[-1][0]) if len(page) == PAGE else None
    with registry.read() as uow:
        found = blob_refs.stale(uow.session)
    for name, ident, count in found:
        yield Trouble("reference.stale", f"{name} {ident}", f"It keeps no bytes and has {count} references.")


def _references(tools: Tools, noun: Noun, row: object, registered: set[str]) -> Iterator[Trouble]:
    try:
        listed = {content.digest for content in noun.contents(row, tools.artifacts.read_manifest)}
    except UNREADABLE:
        return  # reported by `manifest`
    except DomainError as error:
        if error.code != "blob.missing":  # reported by `blobs`
            raise
        return
    subject = f"{noun.name} {noun.id_of(row)}"
    if not registered and listed:
        yield Trouble("reference.missing", subject, f"It has no references to the {len(listed)} digests that it lists.")
    elif registered != listed:
        missing, more = len(listed - registered), len(registered - listed)
        yield Trouble(
            "reference.wrong", subject, f"{missing} references are missing, {more} are to digests that it does not list."
        )


def blobs(registry: UnitsOfWork, quick: bool, tell: Tell) -> Iterator[Trouble]:
    """Checks each blob that rows reference once. Progress counts digests if `quick` is set, otherwise bytes."""
    with registry.read() as uow:
        count, size = blob_refs.stored_totals(uow.session)
    (what, total), done, after = ("digests", count) if quick else ("bytes", size), 0, ""
    while True:
        with registry.read() as uow:
            page = blob_refs.stored_page(uow.session, after, PAGE)
        for blob in page:
            tell(what, done, total)
            found = _blob(registry.tools, blob, quick)
            subject = _subject(registry, blob.digest) if found else None
            if found and subject:  # None: no row references it any more
                yield Trouble(found[0], subject, f"The bytes {blob.digest} {found[1]}.")
            done += 1 if quick else blob.most or 0
        if len(page) < PAGE:
            break
        after = page[-1].digest
    tell(what, total, total)


def _blob(tools: Tools, blob: StoredBlob, quick: bool) -> tuple[str, str] | None:
    """Checks presence, size and digest of a blob; returns the code of a trouble and the rest of its sentence, or None."""
    size = tools.blobs.size(blob.digest)
    if size is None:
        return "blob.missing", "are not in the store"
    for expected in (blob.least, blob.most):
        if expected not in (None, size):
            return "blob.size", f"are {size}, not {expected}"
    if quick:
        return None
    try:
        with closing(tools.blobs.open({"": blob.digest})) as source:
            actual = digest_of(source, "")
    except CoreError as error:
        return "blob.digest", f"cannot be read: {error.detail.removesuffix('.')}"
    return None if actual == blob.digest else ("blob.digest", f"have sha256 {actual}")


def _subject(registry: UnitsOfWork, digest: str) -> str | None:
    """Returns the name of a row's file with these bytes, which must be in the store; None if no row references them any more."""
    for noun in NOUNS:
        with registry.read() as uow:
            rows = blob_refs.holders(uow.session, noun, [digest]) if noun.is_stored else iter(())
            row = next((row for _, row in rows), None)
        if row is not None:
            try:
                contents = noun.contents(row, registry.tools.artifacts.read_manifest)
                return noun.title(row) + next(content.name for content in contents if content.digest == digest)
            except (*UNREADABLE, DomainError, StopIteration):  # its manifest is missing, or its list of files was edited manually
                return noun.title(row)
    return None


def unreferenced(registry: UnitsOfWork, began: float) -> Iterator[Trouble]:
    """Finds unreferenced bytes that are older than the grace period, and unreferenced bytes of erased versions of any age.

    Args:
        registry: the registry.
        began: when the check began, in seconds of the monotonic clock.
    """
    found = ((blob, blob.age - (time.monotonic() - began)) for blob in garbage_collection.unreferenced(registry.read, 0.0))
    while page := list(islice(found, PAGE)):
        with registry.read() as uow:
            erased = patches.erased_among(uow.session, [blob.digest for blob, _ in page])
        for (digest, age, _), age_at_begin in page:
            if digest in erased and age_at_begin > 0:
                yield Trouble("purge.bytes", digest, "A purged version had these bytes, and nothing references them.")
            elif age_at_begin > garbage_collection.BLOB_GRACE.total_seconds():
                yield Trouble("blob.unnamed", digest, f"Nothing references these bytes; they are {age / 3600:,.0f} hours old.")


def staged(registry: UnitsOfWork) -> Iterator[Trouble]:
    """Finds staged bytes that have been idle for a day, or for an hour if their draft is not open."""
    idle = (found for found in registry.tools.blobs.uploads() if found[1] > garbage_collection.BLOB_GRACE.total_seconds())
    while page := list(islice(idle, PAGE)):
        with registry.read() as uow:
            states = patches.states_of(uow.session, [upload for upload, _ in page])
        for upload, age in page:
            state = states.get(upload)
            if age > DRAFT_AGE.total_seconds():
                yield Trouble("staging.abandoned", upload, "Nobody goes on with this upload.")
            elif upload.startswith(DRAFTS) and state != "draft":
                yield Trouble("staging.orphan", upload, f"Its draft is {state or 'not there'}, and its bytes are still staged.")


def digest_of(source: Source, path: str) -> str:
    """Returns the sha256 of a file."""
    hashed, size = hashlib.sha256(), source.size(path)
    for start in range(0, size, CHUNK):
        hashed.update(read_range(source, path, start, min(CHUNK, size - start)))
    return hashed.hexdigest()
