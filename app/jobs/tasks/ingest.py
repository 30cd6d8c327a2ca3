"""The task of an ingestion: digests the files of a release and, if asked, copies them."""

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.blobs import locations
from app.blobs.locations import DirectoryLocation, Location, S3Location, S3Prefix, Sink, open_location
from app.core.checkpoint import Checkpoint, list_files, read_checkpoint
from app.core.errors import CheckpointError
from app.core.front_matter import front_matter_of
from app.core.manifest import Manifest, build_manifest, work_bytes
from app.core.source import DirectorySource, FileStat, stat_of
from app.jobs.tasks.context import TaskContext
from app.services.catalog.orders import IngestOrder, IngestResult, RegisteredDirectory, StoredFiles, UpstreamCommit

MANIFEST_FILE = "manifest.json"

Stat = tuple[int | str | None, ...]


@dataclass(frozen=True)
class _Listed:
    """A release's files: their location, their sizes in bytes, and the identities by which changes are detected."""

    location: Location
    sizes: Mapping[str, int]
    stats: Mapping[str, Stat]


def run(order: IngestOrder, context: TaskContext) -> IngestResult:
    """Digests a release; downloads it into the store first if it is upstream.

    Raises:
        CoreError: the files are not a usable release.
        DomainError: of an upstream, see `app.jobs.tasks.download.pull_release`.
    """
    source, expected = order.source, dict[str, str]()
    if isinstance(source, UpstreamCommit):
        from app.jobs.tasks import download  # noqa: PLC0415  what speaks HTTP; most jobs do not

        source, expected = download.pull_release(source, context.start_report)
    listed, sink = _list(source), Sink(order.sink)
    with closing(open_location(listed.location)) as opened:
        checkpoint = read_checkpoint(opened, dict(listed.sizes))
        report = context.start_report(work_bytes(checkpoint), "Reading", len(checkpoint.tensors))
        copy = (lambda path, size: sink.open(f"files/{path}", size)) if order.copy else None
        manifest = build_manifest(opened, checkpoint, report, copy, lambda: report(0, 1))
        front_matter = front_matter_of(opened, checkpoint.files)
    _check_unchanged(listed, checkpoint, manifest, expected)
    text = json.dumps(manifest.to_dict(), sort_keys=True, separators=(",", ":")).encode()
    sink.put(MANIFEST_FILE, text)
    digest = hashlib.sha256(text).hexdigest()
    # In S3 a move is a copy that can take long: made here, not in the transaction that records the result.
    sink.keep({MANIFEST_FILE: digest, **({f"files/{p}": d for p, d in manifest.file_digests.items()} if order.copy else {})})
    stats = {path: listed.stats.get(path, ()) for path in checkpoint.files}
    return IngestResult(digest, stats, _summarise(checkpoint), front_matter)


def _list(source: RegisteredDirectory | S3Prefix | StoredFiles) -> _Listed:
    """Lists a release's files with their current identities."""
    if isinstance(source, StoredFiles):  # bytes in the store are named by their digest
        return _Listed(source.location, source.sizes, {})
    if isinstance(source, S3Prefix):
        objects = locations.list_prefix(source.bucket, source.prefix)
        start = f"{source.prefix}/" if source.prefix else ""
        held = {path: found._replace(key=f"{start}{path}") for path, found in objects.items()}
        sizes = {path: found.size for path, found in objects.items()}
        return _Listed(S3Location(source.bucket, held), sizes, {p: (o.size, o.etag) for p, o in objects.items()})
    beneath = tuple(str(Path(root).resolve()) for root in source.roots)
    empty = DirectoryLocation(source.directory, {}, beneath)
    # A link may point to another allowed directory (as in a Hub cache), but nowhere else.
    stats = {path: _identify(empty, path) for path in list_files(Path(source.directory))}
    location = DirectoryLocation(source.directory, stats, beneath)
    return _Listed(location, {path: stat.size for path, stat in stats.items()}, {p: tuple(s) for p, s in stats.items()})


def _identify(location: DirectoryLocation, path: str) -> FileStat:
    """Returns the current identity of one file, from a descriptor that is known to be beneath an allowed directory.

    Raises:
        CheckpointError: checkpoint.link.
    """
    with closing(DirectorySource(Path(location.directory), beneath=[Path(root) for root in location.beneath])) as source:
        return stat_of(source.descriptor(path))


def _check_unchanged(listed: _Listed, checkpoint: Checkpoint, manifest: Manifest, expected: Mapping[str, str]) -> None:
    """Raises `CheckpointError` (checkpoint.changed) if a file is no longer what it was when it was listed.

    In S3, every read already requires the listed object.
    """
    for path in checkpoint.files:
        location = listed.location
        is_same = not isinstance(location, DirectoryLocation) or _identify(location, path) == location.stats[path]
        if not is_same or expected.get(path, manifest.file_digests[path]) != manifest.file_digests[path]:
            raise CheckpointError("checkpoint.changed", path=path, reason="it changed while it was read")


def _summarise(checkpoint: Checkpoint) -> dict[str, Any]:
    tensors = checkpoint.tensors.values()
    return {
        "model_type": checkpoint.config.get("model_type"),
        "parameters": sum(math.prod(t.shape) for t in tensors),
        "tensors": len(checkpoint.tensors),
        "dtypes": sorted({t.dtype for t in tensors}),
        "files": len(checkpoint.files),
        "left_out": list(checkpoint.left_out)[:100],
    }
