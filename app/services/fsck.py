"""Checks the database against the bytes: what is named and not there, what is there and not named, what is not what it says."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from app.core.errors import CoreError
from app.core.source import Source, read_range
from app.db import patches, releases
from app.domain.errors import DomainError
from app.services.sweep import BLOB_GRACE, DRAFT_AGE
from app.services.uow import UnitOfWork

CHUNK = 4 * 2**20


@dataclass(frozen=True)
class Trouble:
    """One thing that is not as it should be: a code, what it is about, a sentence."""

    code: str
    subject: str
    detail: str

    def to_dict(self) -> dict[str, str]:
        return {"code": self.code, "subject": self.subject, "detail": self.detail}


@dataclass(frozen=True)
class _Named:
    """Bytes that a row names."""

    digest: str
    size: int | None
    subject: str


def check(uow: UnitOfWork, quick: bool, progress: Callable[[int, int], None]) -> list[Trouble]:
    """Looks at everything; changes nothing. Bytes and rows that came or went while it looked are no trouble.

    Args:
        uow: a transaction that reads.
        quick: sizes only; otherwise every byte is read and hashed, once for each digest.
        progress: told how many digests are done, and how many there are.
    """
    troubles = list(_rows(uow))
    named = {found.digest: found for found in _named(uow)}
    for done, found in enumerate(named.values()):
        progress(done, len(named))
        troubles += _bytes(uow, found, quick)
    progress(len(named), len(named))
    troubles += _references(uow)
    blobs = uow.tools.blobs
    for digest, age in blobs.digests():
        if digest not in named and age > BLOB_GRACE.total_seconds():
            troubles.append(Trouble("blob.unnamed", digest, "Nothing names these bytes; the next sweep removes them."))
    for upload, age in blobs.uploads():
        if age > DRAFT_AGE.total_seconds():
            troubles.append(Trouble("staging.abandoned", upload, "Nobody goes on with this upload; the next sweep removes it."))
    return troubles


def _named(uow: UnitOfWork) -> Iterator[_Named]:
    for version in patches.published(uow.session):
        for file in version.files:
            yield _Named(file["sha256"], file["size"], f"{version.patch.full_name}@{version.number}/{file['path']}")
    for release in releases.with_manifests(uow.session):
        subject = f"{release.family.name}/{release.name}"
        yield _Named(str(release.manifest), None, f"{subject} manifest")
        if not release.copied:
            continue
        try:
            manifest = uow.tools.library.manifest(release)
        except (CoreError, DomainError):
            continue  # that its manifest is missing is said once
        for path, digest in manifest.file_digests.items():
            yield _Named(digest, manifest.checkpoint.files[path], f"{subject}/{path}")


def _bytes(uow: UnitOfWork, found: _Named, quick: bool) -> Iterator[Trouble]:
    size = uow.tools.blobs.size(found.digest)
    if size is None:
        yield Trouble("blob.missing", found.subject, f"The bytes {found.digest} are not in the store.")
    elif found.size is not None and size != found.size:
        yield Trouble("blob.size", found.subject, f"The bytes {found.digest} are {size}, not {found.size}.")
    elif not quick:
        with closing(uow.tools.blobs.open({"": found.digest})) as source:
            actual = _digest(source, size)
        if actual != found.digest:
            yield Trouble("blob.digest", found.subject, f"The bytes {found.digest} have sha256 {actual}.")


def _digest(source: Source, size: int) -> str:
    hashed = hashlib.sha256()
    for start in range(0, size, CHUNK):
        hashed.update(read_range(source, "", start, min(CHUNK, size - start)))
    return hashed.hexdigest()


def _references(uow: UnitOfWork) -> Iterator[Trouble]:
    """Releases that are served from where they lie: each file is still the one that was registered."""
    for release in releases.with_manifests(uow.session):
        if release.copied or release.state == "yanked":
            continue
        with uow.tools.library.open_release(release) as source:
            for path in release.stats or {}:
                try:
                    read_range(source, path, 0, min(1, source.size(path)))
                except CoreError as error:
                    yield Trouble("release.changed", f"{release.family.name}/{release.name}/{path}", error.detail)


def _rows(uow: UnitOfWork) -> Iterator[Trouble]:
    for release in releases.list_page(uow.session, None, "ready", None, 10**6):
        if release.manifest is None:
            yield Trouble("release.manifest", f"{release.family.name}/{release.name}", "It is ready and has no manifest.")


def summary(troubles: list[Trouble]) -> dict[str, Any]:
    """All troubles and how many of each code there are."""
    counts: dict[str, int] = {}
    for trouble in troubles:
        counts[trouble.code] = counts.get(trouble.code, 0) + 1
    return {"clean": not troubles, "counts": counts, "troubles": [trouble.to_dict() for trouble in troubles]}
