"""The order and the result of an import, as they cross the process boundary; imported by the job's process too."""

from dataclasses import dataclass

from app.blobs.locations import StoreLocation
from app.domain.upstreams import Hub


@dataclass(frozen=True)
class BytesQuota:
    """The bytes that an owner uses, and the quota."""

    owner: str
    used: int
    limit: int


@dataclass(frozen=True)
class ImportOrder:
    """Download a patch from an upstream. Contains the upstream's token.

    Attributes:
        known: commits of the repository that the owner has already.
        upload: the name under which the store stages the downloads.
        max_bytes, max_files: the limits of a patch.
    """

    hub: Hub
    repository: str
    revision: str
    known: tuple[str, ...]
    store: StoreLocation
    upload: str
    max_bytes: int
    max_files: int
    quota: BytesQuota | None


@dataclass(frozen=True)
class ImportedFile:
    """A file that is in the store."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ImportResult:
    """The downloaded files; none if the owner already has the commit.

    Attributes:
        dropped: paths of files that are no part of a patch.
        base_model, base_revision: the base that the patch's configuration names.
    """

    commit: str
    files: tuple[ImportedFile, ...] | None = None
    dropped: tuple[str, ...] = ()
    base_model: str | None = None
    base_revision: str | None = None
