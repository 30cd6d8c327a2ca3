"""The tools of a use case besides the database. They are protocols, so that the unit of work depends on no area above it."""

import datetime as dt
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sqlalchemy.orm import Session

from app.blobs.locations import Location
from app.blobs.store import BlobStore
from app.core.arithmetic import Arithmetic
from app.core.findings import Finding
from app.core.manifest import Manifest
from app.core.patch import Patch
from app.core.plan import MergePlan
from app.core.recipe import Recipe
from app.core.source import DirectorySource, Source
from app.core.stream import Merger
from app.db.patches import PatchVersion
from app.db.releases import Release
from app.domain.quotas import Quota
from app.services.downloads import Downloads
from app.services.read_slots import ReadSlots


@dataclass(frozen=True)
class JobStatus:
    """A job as the engine knows it; times in milliseconds since 1970.

    Attributes:
        progress: see `app.jobs.child`; only while it runs.
        class_name: the class of workers that runs it, if known.
        attempt: how many times it was started.
        waiting_for: the class of workers that it waits for, if no live worker takes jobs of that class.
    """

    id: str
    state: str
    created_ms: int | None
    updated_ms: int | None
    progress: dict[str, Any] | None
    problem: dict[str, Any] | None
    class_name: str | None = None
    attempt: int = 0
    waiting_for: str | None = None


class JobQueue(Protocol):
    """What services ask of the job engine."""

    def enqueue(
        self, session: Session, job: str, kind: str, subject: str, *, merges: bool = False, urgent: bool = False
    ) -> None:  # fmt: skip
        """Enqueues a job in the session's transaction; idempotent by id. For `merges` and `urgent`, see
        `app.services.jobs.kinds.JobKind`.
        """

    def cancel(self, session: Session, job: str) -> bool:
        """Cancels a job inside the session's transaction; returns False if the job neither waits nor runs.

        A worker that runs it ends the job's process within seconds of the commit, and cannot record a result after it.
        """

    def status(self, job: str) -> JobStatus | None:
        """The state of one job."""

    def statuses(self, jobs: Sequence[str]) -> dict[str, JobStatus]:
        """Returns the states of those jobs that are known, by id, in one query."""

    def live(self, session: Session) -> set[str]:
        """Returns the ids of all jobs that wait or run, as the session's transaction sees them."""

    def waiting(self, session: Session, owner: str) -> int:
        """Returns how many jobs of an owner wait."""

    def served(self, session: Session) -> set[str]:
        """Returns the classes that have a live worker."""

    def finished_before(self, session: Session, moment: dt.datetime, limit: int) -> Sequence[str]:
        """Returns the ids of at most `limit` jobs that ended before a moment, the oldest first."""

    def delete(self, jobs: Sequence[str]) -> None:
        """Deletes everything that is recorded about jobs; must not be called inside a transaction that writes."""

    def page(
        self, session: Session, owner: str | None, kind: str | None, state: str | None, after: str | None, limit: int
    ) -> list[JobStatus]:
        """One page of jobs after the one with id `after`, newest first, one more than `limit`."""


@dataclass(frozen=True)
class Assessment:
    """Whether a patch version can be ported to a release, regardless of the request; see `app.services.ports.assessments`.

    Attributes:
        findings: the reasons for and against.
        fidelity: the sampled merge fidelity; None if nothing was merged.
        tensors_changed: how many tensors of the release the patch changes; 0 if the patch does not fit.
    """

    findings: tuple[Finding, ...]
    fidelity: dict[str, Any] | None
    tensors_changed: int


@dataclass(frozen=True)
class OpenPatch:
    """A patch version that is open for reading."""

    patch: Patch
    source: Source
    digests: Mapping[str, str]


class Planned(NamedTuple):
    """The plan of a merged model, and the offset of the data section in the patch's weights, in bytes."""

    plan: MergePlan
    data_start: int


class OpenArtifacts(Protocol):
    """Opens releases and patches, and caches manifests and plans; implemented by `app.services.artifacts.artifacts`."""

    downloads: Downloads

    def allow(self, roots: Sequence[Path]) -> None: ...

    def require_readable(self, release: Release | None, version: PatchVersion | None = None) -> None: ...

    def held(self) -> set[str]: ...

    def revoke(self, versions: Collection[str]) -> None: ...

    def manifest(self, release: Release) -> Manifest: ...

    def read_manifest(self, digest: str) -> Manifest: ...

    def open_release(self, release: Release, in_order: bool = False) -> AbstractContextManager[Source]: ...

    def open_patch(self, version: PatchVersion) -> AbstractContextManager[OpenPatch]: ...

    def open_file(self, version: PatchVersion, path: str, digest: str) -> AbstractContextManager[Source]: ...

    def adapter_config(self, version: PatchVersion) -> dict[str, Any]: ...

    def open_planned(
        self, release: Release, version: PatchVersion, planned: Planned, arithmetic: Arithmetic, in_order: bool = False
    ) -> AbstractContextManager[Merger]: ...

    def open_merger(
        self, release: Release, version: PatchVersion, recipe: Recipe, arithmetic: Arithmetic
    ) -> AbstractContextManager[Merger]: ...

    def open_directory(self, release: Release) -> DirectorySource: ...

    def assessment(
        self, release: Release, version: PatchVersion, recipe: Recipe, make: Callable[[], Assessment]
    ) -> Assessment: ...

    def is_far(self, release: Release) -> bool: ...

    def plan(self, release: Release, version: PatchVersion, recipe: Recipe) -> MergePlan: ...

    def planned(self, release: Release, version: PatchVersion, recipe: Recipe) -> Planned: ...

    def release_location(self, release: Release) -> Location: ...


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, in bytes and counts, and how much each owner may have for which nothing else was set."""

    patch_bytes: int
    patch_files: int
    page: int
    quota: Quota = field(default_factory=Quota)


@dataclass(frozen=True)
class Tools:
    """What use cases need besides the database; built once by the runtime.

    Attributes:
        checks: semaphore for verifying drafts and assessing ports.
        merged_reads: semaphore for reads of merged files.
        far_reads: semaphore for reads of large files in an object store that are served unchanged.
        pool: computes pieces of merged files.
        kinds: the kinds of jobs by name, see `app.services.jobs.kinds.JobKind`.
        secret_keys: the first one signs and encrypts; all of them are accepted for verifying and decrypting.
    """

    blobs: BlobStore
    artifacts: OpenArtifacts
    jobs: JobQueue
    kinds: Mapping[str, Any]
    arithmetic: Callable[[], Arithmetic]
    allowed_roots: tuple[Path, ...]
    allowed_s3: tuple[str, ...]
    limits: Limits
    checks: ReadSlots
    merged_reads: ReadSlots
    far_reads: ReadSlots
    pool: Executor
    secret_keys: tuple[bytes, ...] = field(repr=False)
