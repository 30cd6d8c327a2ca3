"""Orders and results of jobs that merge, as they cross the process boundary; imported by the job's process too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.blobs.locations import Location, S3Prefix
from app.core.recipe import Recipe


@dataclass(frozen=True)
class MergeOrder:
    """Where the parts of a merged model are stored, and how it is computed.

    Attributes:
        manifest: of the manifest, as the only file, `MANIFEST`.
        patch_sizes: sizes in bytes of the patch's files, by path.
    """

    manifest: Location
    base: Location
    patch: Location
    patch_sizes: Mapping[str, int]
    recipe: Recipe


@dataclass(frozen=True)
class DigestResult:
    """sha256 of the computed files by path, and the exact merge fidelity (None if nothing was merged)."""

    digests: Mapping[str, str]
    fidelity: Mapping[str, Any] | None


@dataclass(frozen=True)
class MaterialiseOrder:
    """Write a merged model to S3.

    Attributes:
        paths: its files.
        fingerprint: names the merged bytes.
    """

    merge: MergeOrder
    paths: tuple[str, ...]
    target: S3Prefix
    fingerprint: str


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written: `copied` bytes by the store itself, `moved` bytes through the job's process."""

    path: str
    size: int
    copied: int
    moved: int


@dataclass(frozen=True)
class MaterialiseResult:
    """What was written."""

    files: tuple[WrittenFile, ...]
    bytes_copied: int
    bytes_moved: int
