"""The order and the result of an ingestion, as they cross the process boundary; imported by the job's process too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.blobs.locations import Location, S3Prefix, SinkLocation, StoreLocation
from app.core.front_matter import FrontMatter
from app.domain.upstreams import Hub, HubFile


@dataclass(frozen=True)
class RegisteredDirectory:
    """A directory where the service runs; links may lead below `roots`."""

    directory: str
    roots: tuple[str, ...]


@dataclass(frozen=True)
class StoredFiles:
    """Files that are in the store already, with their sizes in bytes by path."""

    location: Location
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class UpstreamCommit:
    """A commit of an upstream repository, which is downloaded into the store first. Contains the upstream's token.

    Attributes:
        files: what the upstream listed.
        upload: the name under which the store stages the downloads.
    """

    hub: Hub
    repository: str
    commit: str
    files: tuple[HubFile, ...]
    store: StoreLocation
    upload: str


ReleaseLocation = RegisteredDirectory | S3Prefix | StoredFiles | UpstreamCommit


@dataclass(frozen=True)
class IngestOrder:
    """Digest a release and, with `copy`, copy it.

    Attributes:
        run: the name under which the store stages what the job writes; unique for every run.
        sink: where the manifest and, below files/, the copies are written.
    """

    run: str
    source: ReleaseLocation
    sink: SinkLocation
    copy: bool


@dataclass(frozen=True)
class IngestResult:
    """What an ingestion found.

    Attributes:
        manifest: sha256 of the manifest.
        stats: the identity of each file by path, empty for files that were in the store.
        summary: for lists, see `app.db.releases.Release`.
        front_matter: of the model card, see `app.core.front_matter`.
    """

    manifest: str
    stats: Mapping[str, tuple[int | str | None, ...]]
    summary: Mapping[str, Any]
    front_matter: FrontMatter
