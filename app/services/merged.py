"""The files of a merged model: names, sizes, ETags, digests."""

from dataclasses import dataclass

from app.core.errors import OutputError
from app.core.plan import PlannedFile
from app.core.recipe import Recipe, etag
from app.db.ports import Port
from app.services.library import digests_of
from app.services.uow import UnitOfWork


@dataclass(frozen=True)
class MergedFile:
    """A file of a merged model; size in bytes, sha256 (hex) where it is known."""

    path: str
    size: int
    etag: str
    sha256: str | None
    computed: bool


def files(uow: UnitOfWork, port: Port) -> list[MergedFile]:
    """All files, by path."""
    plan = uow.tools.library.plan(port.release, port.version, Recipe.from_dict(port.recipe))
    return [_file(uow, port, planned) for planned in plan.files.values()]


def file(uow: UnitOfWork, port: Port, path: str) -> MergedFile:
    """One file.

    Raises:
        OutputError: output.unknown_file.
    """
    plan = uow.tools.library.plan(port.release, port.version, Recipe.from_dict(port.recipe))
    if path not in plan.files:
        raise OutputError("output.unknown_file", path=path[:200])
    return _file(uow, port, plan.files[path])


def _file(uow: UnitOfWork, port: Port, planned: PlannedFile) -> MergedFile:
    """Carried files are named by their sha256; computed ones by their recipe, until and after a job computed theirs."""
    path, size = planned.path, planned.size
    if planned.carried_from:
        carried = (
            digests_of(port.version) if planned.carried_from == "patch" else uow.tools.library.manifest(port.release).file_digests
        )
        return MergedFile(path, size, carried[path], carried[path], computed=False)
    return MergedFile(path, size, etag(port.fingerprint, path), (port.digests or {}).get(path), computed=True)
