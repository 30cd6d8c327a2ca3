"""What lies in the store: bytes under their digests, and what is staged."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing

from app.core.errors import CoreError
from app.core.source import Source, read_range
from app.db.patches import PUBLISHED, PURGED, PatchVersion
from app.db.releases import Release
from app.domain.errors import DomainError
from app.services.operations.abandoned_uploads import DRAFT_AGE
from app.services.operations.digest_spill import Named, Scratch
from app.services.operations.fsck.troubles import Trouble
from app.services.operations.garbage_collection import BLOB_GRACE
from app.services.tools import OpenArtifacts, Tools

CHUNK = 4 * 2**20
DRAFTS = "ver_"


def named_by_version(row: PatchVersion) -> Iterator[Named]:
    """The files of a version whose bytes are kept."""
    if row.state in PUBLISHED:
        for file in row.files:
            yield Named(file["sha256"], file["size"], f"{row.patch.full_name}@{row.number}/{file['path']}")


def named_by_release(artifacts: OpenArtifacts, row: Release) -> Iterator[Named]:
    """The manifest of a release, and its files where they were copied.

    Raises:
        UnreadableError: the manifest is there and says nothing.
    """
    if row.manifest is None:
        return
    name = f"{row.family.name}/{row.name}"
    yield Named(row.manifest, None, f"{name} manifest")
    try:
        manifest = artifacts.manifest(row)
    except DomainError as error:
        if error.code != "blob.missing":
            raise
        return  # said of the bytes
    except (CoreError, ValueError, KeyError, TypeError) as error:
        raise UnreadableError(Trouble("release.unreadable", name, f"Its manifest {row.manifest} cannot be read.")) from error
    if row.copied:
        for path, digest in manifest.file_digests.items():
            yield Named(digest, manifest.checkpoint.files[path], f"{name}/{path}")


class UnreadableError(Exception):
    """A manifest that is no manifest; the argument is the trouble."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.detail)
        self.trouble = trouble


def sizes(tools: Tools, found: Named) -> Iterator[Trouble]:
    """Bytes that are named are there, as many as they should be."""
    size = tools.blobs.size(found.digest)
    if size is None:
        yield Trouble("blob.missing", found.subject, f"The bytes {found.digest} are not in the store.")
    elif found.size is not None and size != found.size:
        yield Trouble("blob.size", found.subject, f"The bytes {found.digest} are {size}, not {found.size}.")


def content(tools: Tools, found: Named) -> Iterator[Trouble]:
    """Bytes under a digest have that digest."""
    try:
        with closing(tools.blobs.open({"": found.digest})) as source:
            actual = digest_of(source, "")
    except CoreError as error:
        yield Trouble("blob.digest", found.subject, f"The bytes {found.digest} cannot be read: {error.detail}")
        return
    if actual != found.digest:
        yield Trouble("blob.digest", found.subject, f"The bytes {found.digest} have sha256 {actual}.")


def buried_with(row: PatchVersion) -> Iterator[Named]:
    """The files of a version whose bytes were erased."""
    if row.state == PURGED and row.number is not None and row.erased_at is not None:
        for file in row.files:
            yield Named(file["sha256"], file["size"], f"{row.patch.full_name}@{row.number}")


def unnamed(tools: Tools, scratch: Scratch, buried: Scratch, began: float) -> Iterator[Trouble]:
    """Bytes that nothing names, and did not while the check ran; those that were erased may not be there however young.

    Args:
        tools: for the store.
        scratch: what is named.
        buried: what was erased.
        began: when the check began to ask what is named, in seconds of the monotonic clock.
    """
    for digest, age in tools.blobs.digests():
        if buried.names(digest) and age > time.monotonic() - began and not scratch.names(digest):
            yield Trouble("purge.bytes", digest, "A version that was purged had these bytes, and nothing else names them.")
        elif age > BLOB_GRACE.total_seconds() + time.monotonic() - began and not scratch.names(digest):
            yield Trouble("blob.unnamed", digest, f"Nothing has named these bytes for {age / 3600:,.0f} hours.")


def idle_uploads(tools: Tools) -> Iterator[tuple[str, bool]]:
    """What is staged and rests: its name, and whether it rested so long that nobody goes on with it."""
    for upload, age in tools.blobs.uploads():
        if age > BLOB_GRACE.total_seconds():
            yield upload, age > DRAFT_AGE.total_seconds()


def staged(upload: str, old: bool, state: str | None) -> Iterator[Trouble]:
    """What is staged belongs to a draft that somebody goes on with; `state` is that of the version of its name."""
    if old:
        yield Trouble("staging.abandoned", upload, "Nobody goes on with this upload.")
    elif upload.startswith(DRAFTS) and state != "draft":
        yield Trouble("staging.orphan", upload, f"Its draft is {state or 'not there'}, and its bytes are still staged.")


def digest_of(source: Source, path: str) -> str:
    """Returns the sha256 of a file."""
    hashed, size = hashlib.sha256(), source.size(path)
    for start in range(0, size, CHUNK):
        hashed.update(read_range(source, path, start, min(CHUNK, size - start)))
    return hashed.hexdigest()
