"""Places and sinks: where bytes lie, and where they may be written, as plain values that a job's process can open.

A place is {"kind": "files", "locations": {path: file}}, {"kind": "directory", "directory", "stats": {path: [size, mtime_ns,
inode]}, "beneath": [directories that links may lead to]} or {"kind": "s3", "bucket", "objects": {path: [key, size, etag]}}.
A sink is {"kind": "directory", "directory"} or {"kind": "s3", "bucket", "prefix", "store"}, the last being what the store's own
keys begin with.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from app.blobs import layout
from app.blobs.s3.client import shared_client, translated
from app.blobs.s3.copy import copy_object
from app.blobs.s3.source import Object, S3Source
from app.core.checkpoint import MAX_FILES
from app.core.errors import CheckpointError
from app.core.source import DirectorySource, FileStat, Source

Write = Callable[[memoryview], Any]
# Parts of a file that is written to S3 from a stream: at most 10,000 of them.
PART_BYTES = 16 * 2**20
MAX_PARTS = 10_000


def open_location(place: Mapping[str, Any]) -> Source:
    """A source for a place; the caller closes it."""
    if place["kind"] == "files":
        return DirectorySource(Path("/"), None, {path: Path(location) for path, location in place["locations"].items()})
    if place["kind"] == "directory":
        stats = {path: FileStat(*stat) for path, stat in place["stats"].items()}
        return DirectorySource(Path(place["directory"]), stats, beneath=[Path(root) for root in place["beneath"]])
    return S3Source(shared_client(), place["bucket"], {path: Object(*found) for path, found in place["objects"].items()})


def list_prefix(bucket: str, prefix: str) -> dict[str, Object]:
    """The objects below a prefix, by their paths from there; hidden ones are passed over.

    Raises:
        CheckpointError: checkpoint.missing_file, checkpoint.too_many_files, checkpoint.unsafe_path.
        DomainError: storage.unavailable, storage.refused.
    """
    start, found = f"{prefix}/" if prefix else "", dict[str, Object]()
    with translated():
        for page in shared_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start):
            for entry in page.get("Contents", ()):
                path = entry["Key"].removeprefix(start)
                parts = path.split("/")
                if path.endswith("/") or any(part.startswith(".") and part not in (".", "..") for part in parts):
                    continue
                if {"", ".", ".."} & set(parts):
                    raise CheckpointError("checkpoint.unsafe_path", path=path[:200])
                found[path] = Object(entry["Key"], entry["Size"], entry["ETag"])
                if len(found) > MAX_FILES:
                    raise CheckpointError("checkpoint.too_many_files", limit=MAX_FILES)
    if not found:
        raise CheckpointError("checkpoint.missing_file", path=f"s3://{bucket}/{prefix}")
    return found


def is_far(source: Source) -> bool:
    """Whether every read of a source is a journey."""
    return isinstance(source, S3Source)


def needs_s3(value: Any) -> bool:
    """Whether an order names S3 anywhere: only then its process is given what the client needs."""
    if isinstance(value, Mapping):
        return value.get("kind") == "s3" or any(needs_s3(v) for v in value.values())
    return isinstance(value, list | tuple) and any(needs_s3(v) for v in value)


class Sink:
    """Writes files to a sink, each in one go, in bounded memory; safe to use from several threads for different files."""

    def __init__(self, where: Mapping[str, Any], client: Any = None) -> None:
        self._where = where
        self._client = client or (shared_client() if where["kind"] == "s3" else None)

    def open(self, path: str, size: int) -> AbstractContextManager[Write]:
        """A function that takes the file's bytes in order; the file is durable when the block ends without an error."""
        return self._s3(path, size) if self._client else self._local(path)

    def put(self, path: str, content: bytes) -> None:
        """Writes a small file."""
        with self.open(path, len(content)) as write:
            write(memoryview(content))

    def keep(self, files: Mapping[str, str]) -> None:
        """Where the sink is a store's in S3: copies files (path -> sha256) to where the store has them under their digests."""
        if self._client is None:
            return
        bucket, prefix = self._where["bucket"], self._where["prefix"]
        for path, digest in files.items():
            with translated():
                found = self._client.head_object(Bucket=bucket, Key=f"{prefix}/{path}")
            written = Object(f"{prefix}/{path}", found["ContentLength"], found["ETag"])
            copy_object(self._client, bucket, written, bucket, f"{self._where['store']}{layout.blob(digest)}")

    @contextmanager
    def _local(self, path: str) -> Iterator[Write]:
        target = Path(self._where["directory"]) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _s3(self, path: str, size: int) -> Iterator[Write]:
        client, at = self._client, {"Bucket": self._where["bucket"], "Key": f"{self._where['prefix']}/{path}"}
        assert client is not None  # noqa: S101  the kind says so
        part_bytes = max(PART_BYTES, -(-size // MAX_PARTS))
        with translated():
            if size <= part_bytes:
                held = bytearray()
                yield held.extend
                client.put_object(**at, Body=bytes(held))
                return
            upload = client.create_multipart_upload(**at)["UploadId"]
            parts = _Parts(client, {**at, "UploadId": upload}, part_bytes)
            try:
                yield parts.add
                client.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts.finish()})
            except BaseException:
                client.abort_multipart_upload(**at, UploadId=upload)
                raise


class _Parts:
    """Sends a stream in parts of one size."""

    def __init__(self, client: Any, at: dict[str, Any], part_bytes: int) -> None:
        self._client, self._at, self._size = client, at, part_bytes
        self._held, self._sent = bytearray(), list[dict[str, Any]]()

    def add(self, data: memoryview) -> None:
        self._held += data
        while len(self._held) >= self._size:
            self._send(bytes(self._held[: self._size]))
            del self._held[: self._size]

    def finish(self) -> list[dict[str, Any]]:
        if self._held:
            self._send(bytes(self._held))
        return self._sent

    def _send(self, data: bytes) -> None:
        number = len(self._sent) + 1
        etag = self._client.upload_part(**self._at, PartNumber=number, Body=data)["ETag"]
        self._sent.append({"PartNumber": number, "ETag": etag})
