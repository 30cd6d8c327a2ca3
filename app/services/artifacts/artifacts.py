"""Opens what rows only name: manifests, releases, patches, merged models."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from app.blobs.locations import DirectoryLocation, Location, OnS3, S3Location, is_far, open_location
from app.blobs.s3.source import Object
from app.blobs.store import BlobStore
from app.core.adapter import CONFIG_FILE, MAX_CONFIG_BYTES, WEIGHTS_FILE, load_config
from app.core.arithmetic import Arithmetic
from app.core.manifest import Manifest
from app.core.patch import read_patch
from app.core.plan import MergePlan, make_plan
from app.core.readahead import ReadAhead
from app.core.recipe import Recipe, fingerprint
from app.core.source import DirectorySource, FileStat, Source, read_range
from app.core.stream import Merger
from app.db.patches import PatchVersion
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.s3_uri import S3, S3Uri
from app.services.artifacts.open_sources import OpenSources
from app.services.artifacts.storage_probes import StorageProbes
from app.services.downloads import Downloads
from app.services.tools import Assessment, OpenPatch, Planned
from app.single_flight import SingleFlight

MANIFEST = "manifest"
MANIFESTS = 32
PLANS = 64
ASSESSMENTS = 1024


class Artifacts:
    """Opens releases and patches; remembers manifests and plans, which never change.

    Open files and cached entries of a version can be revoked (`revoke`), so that removed bytes are not read any further.

    Attributes:
        downloads: The downloads in progress.

    Args:
        blobs: the store.
        allowed_roots: directories that files of releases by reference must lie beneath; also checked when a file is opened.
    """

    def __init__(self, blobs: BlobStore, allowed_roots: Sequence[Path] = ()) -> None:
        self._blobs, self._allowed_roots = blobs, allowed_roots
        self._manifests: SingleFlight[str, Manifest] = SingleFlight(MANIFESTS)
        self._plans: SingleFlight[tuple[str, str], Planned] = SingleFlight(PLANS)
        self._assessments: SingleFlight[tuple[str, str], Assessment] = SingleFlight(ASSESSMENTS)
        self._opened = OpenSources()
        self.downloads = Downloads()
        self._probes = StorageProbes()

    def allow(self, roots: Sequence[Path]) -> None:
        """Replaces the allowed directories; applies to files opened from now on."""
        self._allowed_roots = roots

    def require_readable(self, release: Release | None, version: PatchVersion | None = None) -> None:
        """Reads a byte of a release, and of a version's weights, unless it was just done; waits for seconds at most.

        Raises:
            DomainError: storage.unavailable, among others, where GET would fail or stand still now.
            CoreError: the bytes are not what they were any more.
        """
        if release is not None:
            self._probes.require(release.id, partial(self._touch_release, release))
        if version is not None:
            self._probes.require(version.id, partial(self._touch_version, version))

    def _touch_release(self, release: Release) -> None:
        shard = next(iter(self.manifest(release).checkpoint.shards))
        with self.open_release(release) as source:
            read_range(source, shard, 0, 1)

    def _touch_version(self, version: PatchVersion) -> None:
        with self.open_file(version, WEIGHTS_FILE, digests_of(version)[WEIGHTS_FILE]) as source:
            read_range(source, WEIGHTS_FILE, 0, 1)

    def held(self) -> set[str]:
        """Ids of the versions that something is open or remembered of."""
        remembered = [*self._plans.remembered(), *self._assessments.remembered()]
        return {version for version, _ in remembered} | self._opened.versions()

    def revoke(self, versions: Collection[str]) -> None:
        """Forgets versions, and ends the reads of them that are under way."""
        for cache in (self._plans, self._assessments):
            for key in cache.remembered():
                if key[0] in versions:
                    cache.forget(key)
        self._opened.revoke(versions)

    def manifest(self, release: Release) -> Manifest:
        """The manifest of a ready release."""
        return self.read_manifest(str(release.manifest))

    def read_manifest(self, digest: str) -> Manifest:
        """The manifest that a digest names."""
        return self._manifests.get(digest, lambda: self._read_manifest(digest))

    @contextmanager
    def open_release(self, release: Release, in_order: bool = False) -> Iterator[Source]:
        """Opens a source for a ready release: its directory, checked file by file, or the copies. For `in_order`, see
        `open_planned`.
        """
        source = self._release_source(release)
        if in_order and is_far(source):
            source = ReadAhead(source)
        try:
            yield source
        finally:
            source.close()

    @contextmanager
    def open_patch(self, version: PatchVersion) -> Iterator[OpenPatch]:
        """A patch version, with its configuration and header read.

        Raises:
            AdapterError, HeaderError: what was uploaded is not a patch.
        """
        digests = digests_of(version)
        with self._opened.take(version.id, self._blobs.open(digests)) as opening:
            sizes = {file["path"]: file["size"] for file in version.files}
            yield OpenPatch(read_patch(opening.source, sizes), opening.source, digests)

    @contextmanager
    def open_file(self, version: PatchVersion, path: str, digest: str) -> Iterator[Source]:
        """One file of a patch version, as it was published."""
        with self._opened.take(version.id, self._blobs.open({path: digest})) as opening:
            yield opening.source

    def adapter_config(self, version: PatchVersion) -> dict[str, Any]:
        """Returns a version's adapter_config.json as it was published."""
        with self.open_file(version, CONFIG_FILE, digests_of(version)[CONFIG_FILE]) as source:
            return load_config(bytes(read_range(source, CONFIG_FILE, 0, min(source.size(CONFIG_FILE), MAX_CONFIG_BYTES))))

    def is_far(self, release: Release) -> bool:
        """Returns whether a ready release lies in an object store, where every read has a high latency."""
        return isinstance(self._blobs.where(), OnS3) if release.copied else release.source.startswith(S3)

    @contextmanager
    def open_merger(
        self, release: Release, version: PatchVersion, recipe: Recipe, arithmetic: Arithmetic
    ) -> Iterator[Merger]:  # fmt: skip
        """The merged model of a release and a patch version.

        Raises:
            CoreError: the two do not fit each other.
        """
        with self.open_planned(release, version, self.planned(release, version, recipe), arithmetic) as merger:
            yield merger

    @contextmanager
    def open_planned(
        self, release: Release, version: PatchVersion, planned: Planned, arithmetic: Arithmetic, in_order: bool = False
    ) -> Iterator[Merger]:
        """Opens the merged model that was planned for a release and a patch version.

        Args:
            release, version, planned, arithmetic: determine the model.
            in_order: whether its files will be read sequentially; remote bytes are then read ahead.
        """
        base = self._release_source(release)
        if in_order and is_far(base):
            base = ReadAhead(base)
        try:
            with self._opened.take(version.id, self._blobs.open(digests_of(version))) as opening:
                sources = {"base": base, "patch": opening.source}
                merger = Merger(planned.plan, sources, WEIGHTS_FILE, planned.data_start, arithmetic)
                opening.on_revoked(merger.forget)
                yield merger
        finally:
            base.close()

    def plan(self, release: Release, version: PatchVersion, recipe: Recipe) -> MergePlan:
        """The plan of a merged model, without opening the release.

        Raises:
            CoreError: the two do not fit each other.
        """
        return self.planned(release, version, recipe).plan

    def assessment(self, release: Release, version: PatchVersion, recipe: Recipe, make: Callable[[], Assessment]) -> Assessment:
        """Returns the assessment of a version on a release, refusals included. If it is not cached, one caller makes it."""
        return self._assessments.get(_key(release, version, recipe), make)

    def planned(self, release: Release, version: PatchVersion, recipe: Recipe) -> Planned:
        """Returns the plan together with the other data that a merger needs."""
        return self._plans.get(_key(release, version, recipe), lambda: self._plan(release, version, recipe))

    def _plan(self, release: Release, version: PatchVersion, recipe: Recipe) -> Planned:
        base = self.manifest(release).checkpoint
        with self.open_patch(version) as opened:
            deltas = opened.patch.resolve(base)
            return Planned(make_plan(base, deltas, recipe, opened.patch.files), opened.patch.header.data_start)

    def _read_manifest(self, digest: str) -> Manifest:
        source = self._blobs.open({MANIFEST: digest})
        try:
            return Manifest.parse(read_range(source, MANIFEST, 0, source.size(MANIFEST)))
        finally:
            source.close()

    def open_directory(self, release: Release) -> DirectorySource:
        """Opens the files of a release by reference as they are now, without comparing identities; the caller closes it."""
        return DirectorySource(Path(release.source), beneath=[Path(root) for root in self._beneath(release)])

    def _release_source(self, release: Release) -> Source:
        if release.copied:
            return self._blobs.open(self.manifest(release).file_digests)
        return open_location(self.release_location(release))

    def _beneath(self, release: Release) -> tuple[str, ...]:
        # The directory was checked when it was registered, and is opened by its real path without following links.
        return (release.source, *(str(root.resolve()) for root in self._allowed_roots))

    def release_location(self, release: Release) -> Location:
        """Returns the location of a release's files: in the store, or the registered source with the identities from then.

        Raises:
            DomainError: release.damaged.
        """
        if release.copied:
            return self._blobs.location(self.manifest(release).file_digests)
        if release.damaged_path is not None:
            raise DomainError("release.damaged", release=release.name, path=release.damaged_path)
        stats = release.stats or {}
        if not release.source.startswith(S3):
            more = release.identities or {}
            identities = {path: FileStat(*stat, *more.get(path, ())) for path, stat in stats.items()}
            return DirectoryLocation(release.source, identities, self._beneath(release))
        at = S3Uri.parse(release.source)
        return S3Location(at.bucket, {path: Object(at.key(path), *stat) for path, stat in stats.items()})


def digests_of(version: PatchVersion) -> dict[str, str]:
    """sha256 by path of a version's files."""
    return {file["path"]: file["sha256"] for file in version.files}


def _key(release: Release, version: PatchVersion, recipe: Recipe) -> tuple[str, str]:
    return version.id, fingerprint(recipe, str(release.manifest), version.digest)
