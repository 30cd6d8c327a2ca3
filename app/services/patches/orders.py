"""The order and the result of an import, as they cross the process boundary; imported by the job's process too."""

from dataclasses import dataclass

from app.blobs.locations import StoreLocation
from app.domain.upstreams import Hub


@dataclass(frozen=True)
class BytesQuota:
    """How many bytes an owner has, and may have."""

    owner: str
    used: int
    limit: int


@dataclass(frozen=True)
class ImportOrder:
    """Bring a patch from an upstream. Holds the upstream's token.

    Attributes:
        known: commits of the repository that the owner has already.
        upload: the name under which the store stages what arrives.
        max_bytes, max_files: of a patch.
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
    """What was brought; no files where the owner has the commit already.

    Attributes:
        dropped: paths of files that are no part of a patch.
        base_model, base_revision: what the patch's configuration says of its base.
    """

    commit: str
    files: tuple[ImportedFile, ...] | None = None
    dropped: tuple[str, ...] = ()
    base_model: str | None = None
    base_revision: str | None = None
