"""The kinds of rows (nouns) that keep bytes in the blob store: which rows keep bytes, and the digests of those bytes.

Each noun that stores bytes has one entry in `NOUNS`. References (`app.db.blob_refs`), garbage collection, erasure and fsck are
derived from it; code that writes the rows need not call anything.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, exists, inspect
from sqlalchemy.orm import InstrumentedAttribute, joinedload

from app.core.manifest import Manifest
from app.db.base import Base
from app.db.patches import PUBLISHED, PatchVersion
from app.db.pushes import FILE, PushedObject
from app.db.release_downloads import Pull
from app.db.releases import Release
from app.domain.principal import INSTALLATION

# Returns the manifest with a digest, from a cache or from the store.
ReadManifest = Callable[[str], Manifest]


class Content(NamedTuple):
    """Bytes that a row lists: sha256, size (None if the row does not record it), and a suffix to the row's title for messages."""

    digest: str
    size: int | None
    name: str


@dataclass(frozen=True, eq=False)
class Noun:
    """A kind of row that keeps bytes.

    Attributes:
        name: the value of `blob_refs.noun`.
        model: the mapped class; its primary key is one column.
        keeps: SQL condition that selects the rows that keep bytes.
        decided_by: attributes on which `keeps` and `contents` depend. An attribute of another class affects the row with the same
            primary key.
        contents: lists the bytes of a row.
        title: returns the name of a row for messages.
        loads: loader options that `title` needs.
        is_stored: whether the bytes must be in the store; otherwise they may still be arriving.
        relists: whether the list of a row can change while the row has references.
    """

    name: str
    model: type[Base]
    keeps: ColumnElement[bool]
    decided_by: tuple[InstrumentedAttribute[Any], ...]
    contents: Callable[[Any, ReadManifest], Iterator[Content]]
    title: Callable[[Any], str]
    loads: tuple[Any, ...] = ()
    is_stored: bool = True
    relists: bool = False

    def id_of(self, row: Any) -> str:
        return str(getattr(row, self.key.key))

    def owner(self, row: Any) -> str:
        """Returns the owner of a row; the installation, if the row has no owner."""
        return str(getattr(row, "owner", INSTALLATION))

    @property
    def key(self) -> Any:
        """The mapped attribute of the primary key, whose value is `blob_refs.row_id`."""
        return getattr(self.model, str(inspect(self.model).primary_key[0].key))


def _files(row: PatchVersion, _: ReadManifest) -> Iterator[Content]:
    return (Content(file["sha256"], file["size"], f"/{file['path']}") for file in row.files)


def _release(row: Release, read_manifest: ReadManifest) -> Iterator[Content]:
    assert row.manifest is not None  # noqa: S101  a release without one keeps no bytes
    yield Content(row.manifest, None, " manifest")
    if row.copied:
        manifest = read_manifest(row.manifest)
        for path, digest in manifest.file_digests.items():
            yield Content(digest, manifest.checkpoint.files[path], f"/{path}")


def _listing(row: Pull, _: ReadManifest) -> Iterator[Content]:
    return (Content(sha256, size, f"/{path}") for path, size, sha256, _ in row.files if sha256)


_OF_VERSION = (PatchVersion.state, PatchVersion.files)
_PATCH = (joinedload(PatchVersion.patch),)

NOUNS = (
    Noun(
        "version", PatchVersion, PatchVersion.state.in_(PUBLISHED), _OF_VERSION, _files,
        title=lambda row: f"{row.patch.full_name}@{row.number}", loads=_PATCH,
    ),
    Noun(
        "draft", PatchVersion, PatchVersion.state == "draft", _OF_VERSION, _files,
        title=lambda row: f"an upload to {row.patch.full_name}", loads=_PATCH, is_stored=False,
    ),
    Noun(
        "pushed file", PushedObject, (PushedObject.kind == FILE) & PushedObject.staged.is_not(None),
        (PushedObject.kind, PushedObject.staged, PushedObject.digest),
        lambda row, _: iter([Content(row.digest, row.size, "")]),
        title=lambda row: f"a file pushed to {row.repository}", is_stored=False,
    ),
    Noun(
        "release", Release, Release.manifest.is_not(None), (Release.manifest, Release.copied), _release,
        title=lambda row: f"{row.family.name}/{row.name}", loads=(joinedload(Release.family),),
    ),
    Noun(
        "download", Pull, exists().where(Release.id == Pull.release_id, Release.state == "ingesting"),
        (Pull.files, Release.state), _listing, title=lambda row: f"the download of {row.release_id}", is_stored=False,
        relists=True,
    ),
)  # fmt: skip
