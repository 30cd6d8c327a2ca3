"""The files of a merged model: names, sizes, ETags, digests, and where their bytes come from.

Nothing here queries the database: the caller looks a port up in a transaction that ends before the model is planned or read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from app.core.plan import PlannedFile
from app.core.recipe import Recipe, etag
from app.db.patches import PatchVersion
from app.db.ports import Port
from app.db.releases import Release
from app.domain.events.ports import PortContents
from app.services.artifacts.artifacts import digests_of
from app.services.artifacts.file_reads import Content
from app.services.artifacts.stored_files import patch_content, release_content
from app.services.tools import OpenArtifacts, Tools

AHEAD = 6  # pieces computed in advance


@dataclass(frozen=True)
class MergedFile:
    """A file of a merged model; size in bytes, sha256 (hex) where it is known."""

    path: str
    size: int
    etag: str
    sha256: str | None
    computed: bool


def contents_of(artifacts: OpenArtifacts, release: Release, version: PatchVersion, recipe: Recipe) -> PortContents | None:
    """Returns facts about a port that are read from its files; None unless its recipe is canonical (visible to Hub clients).

    Raises:
        CoreError: release and version do not fit each other, or their bytes have changed.
    """
    if recipe != Recipe():
        return None
    planned = artifacts.plan(release, version, recipe).files.values()
    return PortContents(frozenset(file.path for file in planned if not file.carried_from), artifacts.adapter_config(version))


class MergedModel:
    """The merged model of a port, planned.

    Args:
        artifacts: opens releases and patches.
        port: a port that may be read, with its version and release.

    Raises:
        CoreError: release and version do not fit each other, or their bytes have changed.
    """

    def __init__(self, artifacts: OpenArtifacts, port: Port) -> None:
        self._artifacts, self._port = artifacts, port
        self._planned = artifacts.planned(port.release, port.version, Recipe.from_dict(port.recipe))

    @property
    def family_id(self) -> str:
        """The family that a reader must be able to see."""
        return self._port.release.family_id

    def files(self) -> list[MergedFile]:
        """Returns all files, by path."""
        return [self._file(planned) for planned in self._planned.plan.files.values()]

    def file(self, path: str) -> MergedFile:
        """Returns one file.

        Raises:
            OutputError: output.unknown_file.
        """
        return self._file(self._planned.plan.file(path))

    def content(self, tools: Tools, path: str, start: int, stop: int) -> Content:
        """Returns the content of bytes [start, stop) of a file: computed, or unchanged from the release or the patch."""
        port, origin = self._port, self._planned.plan.file(path).carried_from
        if origin == "patch":
            return patch_content(self._artifacts, port.version, path, digests_of(port.version)[path], stop)
        if origin == "base":
            return release_content(tools, port.release, path, start, stop, port.owner)
        return Content(partial(self._compute, tools, path, stop), tools.merged_reads, port.owner, is_computed=True)

    @contextmanager
    def _compute(self, tools: Tools, path: str, stop: int, start: int) -> Iterator[Iterator[memoryview]]:
        port, arithmetic = self._port, tools.arithmetic()
        with self._artifacts.open_planned(port.release, port.version, self._planned, arithmetic, in_order=True) as merger:
            pieces = merger.stream(path, start, stop, pool=tools.pool, ahead=AHEAD)
            try:
                yield pieces
            finally:
                pieces.close()

    def _file(self, planned: PlannedFile) -> MergedFile:
        """Describes a planned file. The ETag of a carried file is its sha256; that of a computed file identifies its recipe,
        both before and after a job has computed its digest.
        """
        path, size, port = planned.path, planned.size, self._port
        if planned.carried_from:
            is_own = planned.carried_from == "patch"
            carried = digests_of(port.version) if is_own else self._artifacts.manifest(port.release).file_digests
            return MergedFile(path, size, carried[path], carried[path], computed=False)
        return MergedFile(path, size, etag(port.fingerprint, path), (port.digests or {}).get(path), computed=True)
