"""Records the commits of everything that Hub clients can see, because lists of refs contain commit ids and clients pin them.

A commit is recorded in the transaction in which a release or a port becomes ready or a version is published. If a
process of an earlier version recorded none, the catch-up of the service or the first request that needs the commit records it.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import get_args

from app.core.errors import CoreError
from app.core.front_matter import FrontMatter, front_matter_of
from app.core.patch import CARD_FILE
from app.core.recipe import Recipe
from app.db import commits, ports, uncommitted, versions
from app.db import patches as patch_rows
from app.db import releases as release_rows
from app.db.patches import PatchVersion
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.events.families import ReleaseReady
from app.domain.events.patches import VersionPublished
from app.domain.events.ports import PortReady
from app.services.artifacts.artifacts import digests_of
from app.services.hubview import snapshots
from app.services.hubview.repositories import Adapter, BaseModel, Kind, Merged, Nothing, Thing
from app.services.hubview.snapshots import Drawn, Snapshot, SnapshotLine
from app.services.patches import patches
from app.services.ports.merged_files import contents_of
from app.services.tools import OpenArtifacts
from app.services.unit_of_work import Recorded, UnitOfWork, UnitsOfWork, run_with_retry

Subject = tuple[Kind, str]
Visible = BaseModel | Adapter | Merged

KINDS: tuple[Kind, ...] = get_args(Kind)

# How many subjects are processed between the transaction that reads and the one that writes.
BATCH = 100
# In an object store, each file costs a round trip.
READERS = 8
AMONG = 500
# Errors that concern the bytes of one subject, not the storage as a whole.
UNREADABLE = ("blob.missing", "release.damaged")
CATCH_UP_SECONDS, CATCH_UP_PAUSE, RETRY_SECONDS = 2.0, 3600.0, 60.0

log = logging.getLogger("portllm.hub")


def names(uow: UnitOfWork, subjects: Sequence[Subject]) -> dict[Subject, str]:
    """Returns the commit ids of those subjects whose commits are recorded."""
    found = dict[Subject, str]()
    for kind in sorted({kind for kind, _ in subjects}):
        idents = [ident for own, ident in subjects if own == kind]
        for start in range(0, len(idents), AMONG):
            for ident, name in commits.names(uow.session, kind, idents[start : start + AMONG]).items():
                found[kind, ident] = name
    return found


def write(registry: UnitsOfWork, missing: Sequence[Subject], seconds: float) -> int:
    """Records commits for subjects that have none; returns how many were left when the time was up.

    Subjects whose bytes can no longer be read get no commit. Must be called outside any transaction.

    Raises:
        DomainError: the storage as a whole failed.
    """
    ends = time.monotonic() + seconds
    for start in range(0, len(missing), BATCH):
        if time.monotonic() >= ends:
            return len(missing) - start
        with registry.read() as uow:
            things = list(_load(uow, missing[start : start + BATCH]))
        if drawn := _draw_all(registry, things):
            run_with_retry(registry.write, partial(snapshots.keep_all, drawn=drawn))
    return 0


def write_missing(units: UnitsOfWork, thing: Thing) -> Snapshot:
    """Records the commit of a thing that has none, and returns its snapshot. Must be called outside any transaction.

    Raises:
        DomainError, CoreError: version.purged; storage does not answer, or its bytes differ from those that were published.
    """
    assert not isinstance(thing, Nothing)  # noqa: S101  its snapshot needs no row
    drawn = _draw(units.tools.artifacts, thing)

    def keep(uow: UnitOfWork) -> Snapshot:
        snapshots.keep_all(uow, drawn)
        if (ident := drawn[0].version_id) and (version := patch_rows.version(uow.session, ident)):
            patches.require_kept(version)
        found = snapshots.written(uow, thing)
        assert found is not None  # noqa: S101  nobody has purged its version
        return found

    return run_with_retry(units.write, keep)


def record_release(uow: UnitOfWork, recorded: Recorded[ReleaseReady]) -> None:
    """Records the commit of a release that becomes ready."""
    event, release = recorded.event, release_rows.get(uow.session, recorded.event.release_id)
    assert release is not None  # noqa: S101  it has just become ready
    snapshots.add(uow, snapshots.of_release(release, event.files, event.front))


def record_version(uow: UnitOfWork, recorded: Recorded[VersionPublished]) -> None:
    """Records the commit of a version that is published."""
    version = patch_rows.version(uow.session, recorded.event.version_id)
    assert version is not None  # noqa: S101  it has just been published
    snapshots.add(uow, snapshots.of_version(version, recorded.event.front))


def record_port(uow: UnitOfWork, recorded: Recorded[PortReady]) -> None:
    """Records the commits of a port that becomes ready, based on those of its release and version."""
    port, contents = ports.get(uow.session, recorded.subject), recorded.event.contents
    assert port is not None  # noqa: S101  it has just become ready
    base, patch = commits.of(uow.session, "base", port.release_id), commits.of(uow.session, "patch", port.version_id)
    if contents and base and patch:  # else the catch-up records them, after those of the base and the patch
        for drawn in snapshots.of_port(port, contents, base.files, base.card, patch.card):
            snapshots.add(uow, drawn)


class CatchUp:
    """Records missing commits, of objects that earlier versions of the service made visible.

    It scans all visible objects, a part in each call, and starts again an hour after it has finished.
    """

    def __init__(self, registry: UnitsOfWork) -> None:
        self._registry = registry
        self._due, self._rest, self._after = 0.0, list(KINDS), ""

    def go_on(self) -> None:
        """Processes batches for `CATCH_UP_SECONDS`, at least one if a scan is due."""
        ends = time.monotonic() + CATCH_UP_SECONDS
        while time.monotonic() >= self._due:
            self._write_batch()
            if time.monotonic() >= ends:
                return

    def _write_batch(self) -> None:
        kind = self._rest[0]
        with self._registry.read() as uow:
            idents = uncommitted.page(uow.session, kind, self._after, BATCH)
        try:
            write(self._registry, [(kind, ident) for ident in idents], math.inf)
        except (CoreError, DomainError) as error:  # most likely the store is unreachable
            log.warning("commits of Hub clients are written later: %s", error)
            self._due = time.monotonic() + RETRY_SECONDS
            return
        self._advance(idents)

    def _advance(self, idents: Sequence[str]) -> None:
        if len(idents) == BATCH:
            self._after = idents[-1]
            return
        self._rest, self._after = self._rest[1:], ""
        if not self._rest:
            self._rest, self._due = list(KINDS), time.monotonic() + CATCH_UP_PAUSE


def _draw_all(registry: UnitsOfWork, things: Sequence[Visible]) -> list[Drawn]:
    def draw(thing: Visible) -> list[Drawn]:
        try:
            return _draw(registry.tools.artifacts, thing)
        except CoreError:  # its bytes have changed, so it gets no commit
            return []
        except DomainError as error:
            if error.code in UNREADABLE:
                return []
            raise

    if len(things) == 1:
        return draw(things[0])
    with ThreadPoolExecutor(READERS, thread_name_prefix="hub-commits") as pool:
        return list(chain.from_iterable(pool.map(draw, things)))


def _draw(artifacts: OpenArtifacts, thing: Visible) -> list[Drawn]:
    """Builds the commit of an object from its files; for a port, both commits. Reads a few small files."""
    if isinstance(thing, BaseModel):
        return [snapshots.of_release(thing.release, *_base(artifacts, thing.release))]
    if isinstance(thing, Adapter) and thing.port is None:
        return [snapshots.of_version(thing.version, _front(artifacts, thing.version))]
    port = thing.port
    assert port is not None  # noqa: S101  all others have one
    contents = contents_of(artifacts, port.release, port.version, Recipe.from_dict(port.recipe))
    assert contents is not None  # noqa: S101  repositories hold ports of the canonical recipe only
    return snapshots.of_port(port, contents, *_base(artifacts, port.release), _front(artifacts, port.version))


def _base(artifacts: OpenArtifacts, release: Release) -> tuple[list[SnapshotLine], FrontMatter]:
    manifest = artifacts.manifest(release)
    if CARD_FILE not in manifest.file_digests:
        return manifest.listing(), {}
    with artifacts.open_release(release) as source:
        return manifest.listing(), front_matter_of(source, manifest.file_digests)


def _front(artifacts: OpenArtifacts, version: PatchVersion) -> FrontMatter:
    digest = digests_of(version).get(CARD_FILE)
    if digest is None:
        return {}
    with artifacts.open_file(version, CARD_FILE, digest) as source:
        return front_matter_of(source, (CARD_FILE,))


def _load(uow: UnitOfWork, subjects: Sequence[Subject]) -> Iterator[Visible]:
    def idents(*kinds: Kind) -> list[str]:
        return [ident for kind, ident in subjects if kind in kinds]

    yield from map(BaseModel, release_rows.among(uow.session, idents("base")))
    yield from map(Adapter, versions.among(uow.session, idents("patch")))
    found = {port.id: port for port in ports.among(uow.session, idents("adapter", "merged"))}
    for kind, ident in subjects:
        if port := found.get(ident):
            yield Merged(port) if kind == "merged" else Adapter(port.version, port)
