"""Manifests: what a release is, file by file and tensor by tensor, named by digest."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from app.core.checkpoint import CONFIG_FILE, Checkpoint
from app.core.errors import CheckpointError
from app.core.recipe import digest_of
from app.core.safetensors_header import Header, TensorInfo
from app.core.source import Source

CHUNK = 4 * 2**20
FORMAT = 1

Progress = Callable[[int], None]  # told how many more bytes are done
Copy = Callable[[str, int], AbstractContextManager[Callable[[memoryview], Any]]]


@dataclass(frozen=True)
class Manifest:
    """The immutable description of a release.

    Attributes:
        checkpoint: configuration, headers and file sizes.
        file_digests: sha256 (hex) of every carried file.
        tensor_digests: sha256 (hex) of every tensor's bytes.
    """

    checkpoint: Checkpoint
    file_digests: Mapping[str, str]
    tensor_digests: Mapping[str, str]

    def listing(self) -> list[tuple[str, int, str]]:
        """Returns path, size and sha256 of every carried file, by path."""
        return [(path, size, self.file_digests[path]) for path, size in sorted(self.checkpoint.files.items())]

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_dict())

    @cached_property
    def total_bytes(self) -> int:
        return sum(self.checkpoint.files.values())

    def to_dict(self) -> dict[str, Any]:
        def tensors(header: Header) -> list[list[Any]]:
            return [[t.name, t.dtype, list(t.shape), t.begin, t.end, self.tensor_digests[t.name]] for t in header.tensors]

        return {
            "format": FORMAT,
            "config": dict(self.checkpoint.config),
            "files": {p: [n, self.file_digests[p]] for p, n in sorted(self.checkpoint.files.items())},
            "shards": {
                path: {"data_start": h.data_start, "metadata": h.metadata, "tensors": tensors(h)}
                for path, h in sorted(self.checkpoint.shards.items())
            },
            "left_out": list(self.checkpoint.left_out),
        }

    @classmethod
    def parse(cls, text: bytes | bytearray) -> Self:
        """Parses a stored manifest. Its configuration may predate the bound on nesting depth.

        Raises:
            CheckpointError: checkpoint.invalid_json, if it is nested more deeply than Python can parse.
        """
        try:
            return cls.from_dict(json.loads(text))
        except RecursionError:
            raise CheckpointError("checkpoint.invalid_json", path=CONFIG_FILE, reason="it is nested too deeply") from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        shards, digests = {}, {}
        for path, shard in data["shards"].items():
            infos = []
            for name, dtype, shape, begin, end, digest in shard["tensors"]:
                infos.append(TensorInfo(name, dtype, tuple(shape), begin, end))
                digests[name] = digest
            shards[path] = Header(shard["data_start"], tuple(infos), shard["metadata"])
        files = {path: size for path, (size, _) in data["files"].items()}
        checkpoint = Checkpoint(data["config"], shards, files, tuple(data["left_out"]))
        return cls(checkpoint, {path: digest for path, (_, digest) in data["files"].items()}, digests)


def build_manifest(
    source: Source,
    checkpoint: Checkpoint,
    progress: Progress,
    copy: Copy | None = None,
    tensor_done: Callable[[], None] = lambda: None,
) -> Manifest:
    """Reads a whole release once for its file digests and once for its tensor digests.

    Args:
        source: where the files are read.
        checkpoint: what to read.
        progress: told of every chunk; the sum over all calls is `work_bytes(checkpoint)`.
        copy: where given, opened for every file (path, size in bytes) and told its bytes in order.
        tensor_done: told of every tensor.
    """
    lock = threading.Lock()

    def count() -> None:
        with lock:
            tensor_done()

    def report(more: int) -> None:
        with lock:
            progress(more)

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="digest") as pool:
        files = {p: pool.submit(_digest_file, source, p, n, report, copy) for p, n in checkpoint.files.items()}
        shards = [pool.submit(_digest_tensors, source, p, h, report, count) for p, h in checkpoint.shards.items()]
        tensor_digests = {name: digest for future in shards for name, digest in future.result().items()}
        return Manifest(checkpoint, {p: f.result() for p, f in files.items()}, tensor_digests)


def work_bytes(checkpoint: Checkpoint) -> int:
    """How many bytes `build_manifest` reads."""
    return sum(checkpoint.files.values()) + sum(t.nbytes for t in checkpoint.tensors.values())


def _digest_file(source: Source, path: str, size: int, progress: Progress, copy: Copy | None) -> str:
    if copy is None:
        return _digest_range(source, path, 0, size, progress)
    with copy(path, size) as write:
        return _digest_range(source, path, 0, size, progress, write)


def _digest_tensors(
    source: Source, path: str, header: Header, progress: Progress, tensor_done: Callable[[], None]
) -> dict[str, str]:
    digests = {}
    for tensor in header.tensors:
        digests[tensor.name] = _digest_range(source, path, header.data_start + tensor.begin, tensor.nbytes, progress)
        tensor_done()
    return digests


def _digest_range(
    source: Source, path: str, offset: int, length: int, progress: Progress, also: Callable[[memoryview], Any] | None = None
) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(CHUNK, length)))
    for start in range(0, length, CHUNK):
        part = buffer[: min(CHUNK, length - start)]
        source.read_into(path, offset + start, part)
        digest.update(part)
        if also:
            also(part)
        progress(len(part))
    return digest.hexdigest()
