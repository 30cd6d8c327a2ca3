"""What job processes do: nothing but `core` and the places where bytes lie; bytes in, bytes out."""

import hashlib
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from app.blobs.locations import Sink, is_far, list_prefix, open_location
from app.blobs.s3.client import shared_client, translated
from app.blobs.s3.target import Origin, S3Target
from app.core import arithmetic
from app.core.adapter import WEIGHTS_FILE
from app.core.checkpoint import Checkpoint, list_files, read_checkpoint
from app.core.deltas import resolve
from app.core.diagnostics import measure_fidelity
from app.core.errors import CheckpointError
from app.core.front_matter import front_matter_of
from app.core.manifest import Manifest, build_manifest, work_bytes
from app.core.patch import read_patch
from app.core.plan import MergePlan, make_plan
from app.core.readahead import ReadAhead, Windows
from app.core.recipe import Recipe
from app.core.source import DirectorySource, FileStat, Source, read_range, stat_of
from app.core.stream import Merger
from app.jobs.tasks.materialise import write_to_s3

MANIFEST_FILE = "manifest.json"


class ReportProgress(Protocol):
    """Told of every bit of work: how many bytes more are done, and how many tensors."""

    def __call__(self, more: int, tensors: int = 0, /) -> None: ...


class StartReport(Protocol):
    """Makes reports: of how many bytes in all, what is done with them, and of how many tensors."""

    def __call__(self, total: int, note: str, tensors: int | None = None, /) -> ReportProgress: ...


def ingest(order: dict[str, Any], reporter: StartReport) -> dict[str, Any]:
    """Digests a release and, if asked, copies it.

    Args:
        order: "source", a directory, an S3 prefix, files that are in the store already, or a repository of another hub, which is
            pulled first; "roots", below which links may lead; "sink", where the manifest and copies go; "copy", and whether the
            release is "copied" then, or was before.
        reporter: makes reports of progress.

    Returns:
        {"manifest_sha256", "stats" by path, "summary", "front"}; the manifest and, below files/, the copies lie in the sink.

    Raises:
        CoreError: it is not a release that can be used.
        DomainError: of an upstream, see `app.jobs.tasks.download.pull_release`.
    """
    where, expected = _brought(order["source"], reporter)
    if where["kind"] == "directory":
        where = {**where, "beneath": [str(Path(root).resolve()) for root in order["roots"]]}
    files, stats = _list(where)
    sink = Sink(order["sink"])
    with closing(open_location(_with_stats(where, stats))) as source:
        checkpoint = read_checkpoint(source, files)
        report = reporter(work_bytes(checkpoint), "Reading", len(checkpoint.tensors))
        copy = (lambda path, size: sink.open(f"files/{path}", size)) if order["copy"] else None
        manifest = build_manifest(source, checkpoint, report, copy, lambda: report(0, 1))
        front = front_matter_of(source, checkpoint.files)
    _check_unchanged(where, checkpoint, manifest, stats, expected)
    text = json.dumps(manifest.to_dict(), sort_keys=True, separators=(",", ":")).encode()
    sink.put(MANIFEST_FILE, text)
    digest = hashlib.sha256(text).hexdigest()
    # In S3 a move is a copy that can take long: made here, not in the transaction that records the result.
    sink.keep({MANIFEST_FILE: digest, **({f"files/{p}": d for p, d in manifest.file_digests.items()} if order["copy"] else {})})
    return {
        "run": order["run"],
        "copied": order["copied"],
        "stored": order["source"]["kind"] == "stored",
        "manifest_sha256": digest,
        "stats": {path: stats.get(path) for path in checkpoint.files},
        "summary": _summary(checkpoint),
        "front": dict(front),
    }


def digest(order: dict[str, Any], reporter: StartReport) -> dict[str, Any]:
    """Computes a whole merged model once.

    Returns:
        {"digests": {path: sha256} of its computed files, "fidelity": the exact figure or None}.

    Raises:
        CoreError: the release changed, or a value does not fit the output dtype.
    """
    base = open_location(order["base"])
    with _open_merger(order, ReadAhead(base) if is_far(base) else base) as merger:
        plan = merger.plan
        digests = _digest_files(merger, plan, reporter(plan.total_bytes, "Merging", sum(1 for _ in plan.computed_tensors())))
        fidelity = measure_fidelity(merger, arithmetic.load(order["device"]), max_bytes=None)
        return {"digests": digests, "fidelity": fidelity.to_dict() if fidelity else None}


def materialise(order: dict[str, Any], reporter: StartReport) -> dict[str, Any]:
    """Writes a whole merged model to S3.

    Returns:
        What `app.jobs.tasks.materialise.write_to_s3` returns.

    Raises:
        CoreError: the place is taken, the release changed, or a value does not fit the output dtype.
    """
    target, base = order["target"], order["base"]
    origins = {}
    if base["kind"] == "s3":
        origins = {path: Origin(base["bucket"], key, etag) for path, (key, _, etag) in base["objects"].items()}
    source = open_location(base)
    windows = Windows(source) if is_far(source) else None
    with _open_merger(order, windows or source) as merger, translated():
        report = reporter(merger.plan.total_bytes, "Writing", sum(1 for _ in merger.plan.computed_tensors()))
        to = S3Target(shared_client(), target["bucket"], target["prefix"], order["fingerprint"])
        return write_to_s3(merger, to, origins, report, windows)


def bring(order: dict[str, Any], reporter: StartReport) -> dict[str, Any]:
    """Brings a patch from another hub, see `app.jobs.tasks.import_patch.bring`."""
    from app.jobs.tasks import import_patch as bringing  # noqa: PLC0415  what speaks HTTP; most jobs do not

    return bringing.bring(order, reporter)


@contextmanager
def _open_merger(order: dict[str, Any], base: Source) -> Iterator[Merger]:
    """Merges what an order says, out of a base that is closed at the end."""
    with closing(base), closing(open_location(order["patch"])) as patch_source, closing(open_location(order["manifest"])) as held:
        manifest = Manifest.parse(read_range(held, "manifest", 0, held.size("manifest")))
        patch = read_patch(patch_source, order["patch_sizes"])
        deltas = resolve(patch.config, patch.factors, manifest.checkpoint)
        plan = make_plan(manifest.checkpoint, deltas, Recipe.from_dict(order["recipe"]), patch.files)
        computing = arithmetic.load(order["device"])
        yield Merger(plan, {"base": base, "patch": patch_source}, WEIGHTS_FILE, patch.header.data_start, computing)


def _digest_files(merger: Merger, plan: MergePlan, report: ReportProgress) -> dict[str, str]:
    digests = {}
    with ThreadPoolExecutor(arithmetic.threads()) as pool:
        for path, file in plan.files.items():
            if file.carried_from:
                report(file.size)
                continue
            hashed, position = hashlib.sha256(), 0
            for data in merger.stream(path, pool=pool):
                hashed.update(data)
                before, position = position, position + len(data)
                report(len(data), file.tensors_within(before, position))
            digests[path] = hashed.hexdigest()
    return digests


def _brought(where: dict[str, Any], reporter: StartReport) -> tuple[dict[str, Any], dict[str, str]]:
    """A source that can be read here: what lies in another hub is brought into the store; sha256 of its files by path."""
    if where["kind"] != "upstream":
        return where, {}
    from app.jobs.tasks import download  # noqa: PLC0415  what speaks HTTP; most jobs do not

    pulled = download.pull_release(where, reporter)
    return {"kind": "stored", "place": pulled.place, "sizes": pulled.files}, pulled.digests


def _check_unchanged(
    where: dict[str, Any], checkpoint: Checkpoint, manifest: Manifest, stats: dict[str, list[Any]], expected: dict[str, str]
) -> None:
    """Raises `CheckpointError` (checkpoint.changed) where a file is not any more what it was when it was listed.

    In S3 every read was of just the object that was listed.
    """
    for path in checkpoint.files:
        is_same = where["kind"] != "directory" or list(_identify(where, path)) == stats[path]
        if not is_same or expected.get(path, manifest.file_digests[path]) != manifest.file_digests[path]:
            raise CheckpointError("checkpoint.changed", path=path, reason="it changed while it was read")


def _list(where: dict[str, Any]) -> tuple[dict[str, int], dict[str, list[Any]]]:
    """Sizes of a release's files, and what tells that they are still the same."""
    if where["kind"] == "stored":  # bytes in the store are named by their digest
        return dict(where["sizes"]), {}
    return _list_s3(where) if where["kind"] == "s3" else _list_directory(where)


def _list_directory(where: dict[str, Any]) -> tuple[dict[str, int], dict[str, list[Any]]]:
    """Returns the sizes and identities of a directory's files, each taken from a descriptor that is known to lie beneath a root.

    A link may lead to another allowed place (as in a hub cache), but nowhere else.

    Raises:
        CheckpointError: checkpoint.link, and the errors of `list_files`.
    """
    found = {path: _identify(where, path) for path in list_files(Path(where["directory"]))}
    return {path: held.size for path, held in found.items()}, {path: list(held) for path, held in found.items()}


def _identify(where: dict[str, Any], path: str) -> FileStat:
    """Returns the current identity of one file of a directory."""
    with closing(DirectorySource(Path(where["directory"]), beneath=[Path(root) for root in where["beneath"]])) as source:
        return stat_of(source.descriptor(path))


def _list_s3(where: dict[str, Any]) -> tuple[dict[str, int], dict[str, list[Any]]]:
    found = list_prefix(where["bucket"], where["prefix"])
    return {path: held.size for path, held in found.items()}, {path: [held.size, held.etag] for path, held in found.items()}


def _with_stats(where: dict[str, Any], stats: dict[str, list[Any]]) -> dict[str, Any]:
    """The place of a release's files, each as it was when it was listed."""
    if where["kind"] == "stored":
        return dict(where["place"])
    if where["kind"] == "directory":
        return {**where, "stats": stats}
    start = f"{where['prefix']}/" if where["prefix"] else ""
    return {**where, "objects": {path: [f"{start}{path}", *stat] for path, stat in stats.items()}}


def _summary(checkpoint: Checkpoint) -> dict[str, Any]:
    tensors = checkpoint.tensors.values()
    return {
        "model_type": checkpoint.config.get("model_type"),
        "parameters": sum(math.prod(t.shape) for t in tensors),
        "tensors": len(checkpoint.tensors),
        "dtypes": sorted({t.dtype for t in tensors}),
        "files": len(checkpoint.files),
        "left_out": list(checkpoint.left_out)[:100],
    }
