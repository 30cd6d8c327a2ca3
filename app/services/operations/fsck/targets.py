"""What lies outside the store: releases that are served from where they are, and merged models that were written somewhere."""

from collections.abc import Iterator

from app.blobs.locations import list_prefix
from app.core.errors import CoreError
from app.core.source import read_range
from app.db.materialisations import Materialisation
from app.db.patches import PURGED
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.s3_uri import S3, S3Uri
from app.services.operations import erasure
from app.services.operations.fsck.stored import digest_of
from app.services.operations.fsck.troubles import Found, Trouble, Unseen
from app.services.tools import Tools
from app.services.unit_of_work import UnitsOfWork


class Targets:
    """Looks at what was written, as far as the place can be reached.

    A bucket that did not answer once is not asked again: a store that is away would cost a minute for every model.
    """

    def __init__(self, registry: UnitsOfWork) -> None:
        self._tools, self._registry = registry.tools, registry
        self._away: dict[str, str] = {}

    def look(self, row: Materialisation) -> Iterator[Found]:
        """Every file of a merged model that is done lies at its place, as long as it was; nothing of a purged one does."""
        subject = f"{row.id} ({row.target})"
        if row.port.state == PURGED:
            yield from self._look_for_copies(row, subject)
        elif row.state == "done":
            yield from self._look_for_model(row, subject)

    def _look_for_model(self, row: Materialisation, subject: str) -> Iterator[Found]:
        try:
            place = S3Uri.parse(row.target)
            place.require_below(self._tools.allowed_s3)
            if place.bucket in self._away:
                yield Unseen(subject, self._away[place.bucket])
                return
            found = list_prefix(place.bucket, place.prefix)
        except DomainError as error:
            if error.code.startswith("storage."):
                self._away[place.bucket] = error.detail
            yield Unseen(subject, error.detail)
            return
        except CoreError as error:
            if error.code != "checkpoint.missing_file":  # nothing at all lies there
                yield Unseen(subject, error.detail)
                return
            found = {}
        for file in (row.result or {}).get("files", ()):
            at = found.get(file["path"])
            if at is None:
                yield Trouble("materialisation.missing", subject, f"{file['path']} is not there any more.")
            elif at.size != file["size"]:
                yield Trouble("materialisation.size", subject, f"{file['path']} is {at.size} bytes, not {file['size']}.")

    def _look_for_copies(self, row: Materialisation, subject: str) -> Iterator[Found]:
        """Of a purged version nothing lies where it was written to, hidden or not; `row.port.version` says when it was."""
        if row.port.version.erased_at is None:
            return  # somebody is at it
        try:
            left = erasure.copies_left(self._registry, row)
        except DomainError as error:
            yield Unseen(subject, error.detail)
            return
        if left:
            yield Trouble("purge.copy", subject, f"{left} objects of a merged model are there whose patch was purged.")


def reference(tools: Tools, row: Release, quick: bool) -> Iterator[Found]:
    """Checks that each file of a release by reference is still the one that was registered.

    Args:
        tools: give access to the files.
        row: the release.
        quick: compare only identities; otherwise every byte in a directory is read and hashed.
    """
    if row.copied or row.manifest is None or row.state == "yanked":
        return
    name = f"{row.family.name}/{row.name}"
    if row.damaged_path is not None:
        yield Trouble("release.bytes", f"{name}/{row.damaged_path}", "Its bytes were found to differ; the release is not read.")
        return
    try:
        digests = tools.artifacts.manifest(row).file_digests
        with tools.artifacts.open_release(row) as source:
            for path in row.stats or {}:
                try:
                    if quick or row.source.startswith(S3):
                        read_range(source, path, 0, min(1, source.size(path)))
                    elif digest_of(source, path) != digests[path]:
                        yield Trouble("release.bytes", f"{name}/{path}", f"Its bytes do not have sha256 {digests[path]}.")
                except CoreError as error:
                    if error.code == "checkpoint.link":  # the service may allow more roots than this process
                        yield Unseen(f"{name}/{path}", f"{error.detail} Set PORTLLM_ALLOW_ROOTS as for the service.")
                    else:
                        yield Trouble("release.changed", f"{name}/{path}", error.detail)
    except DomainError as error:
        yield Unseen(name, error.detail)
