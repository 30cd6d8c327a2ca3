"""Locations and sinks: plain values that say where bytes are stored or may be written; a job's process can open them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
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


class OnS3:
    """Base class of everything in S3: a process that opens it gets the settings of the S3 client."""


@dataclass(frozen=True)
class FilesLocation:
    """Files anywhere on this machine, by their paths in the source."""

    files: Mapping[str, str]


@dataclass(frozen=True)
class DirectoryLocation:
    """A directory whose files must be as recorded in `stats`; links may point below the directories in `beneath`."""

    directory: str
    stats: Mapping[str, FileStat]
    beneath: tuple[str, ...]


@dataclass(frozen=True)
class S3Location(OnS3):
    """Objects of a bucket."""

    bucket: str
    objects: Mapping[str, Object]


Location = FilesLocation | DirectoryLocation | S3Location


@dataclass(frozen=True)
class S3Prefix(OnS3):
    """Everything below a prefix of a bucket."""

    bucket: str
    prefix: str


@dataclass(frozen=True)
class DirectorySink:
    """A directory to write files to."""

    directory: str


@dataclass(frozen=True)
class S3Sink(OnS3):
    """A prefix to write files to; if it belongs to a blob store, the keys of that store begin with `store`."""

    bucket: str
    prefix: str
    store: str = ""


SinkLocation = DirectorySink | S3Sink


@dataclass(frozen=True)
class LocalStore:
    """A blob store in a directory."""

    root: str


@dataclass(frozen=True)
class S3Store(OnS3):
    """A blob store below an s3:// URL."""

    address: str


StoreLocation = LocalStore | S3Store


def open_location(location: Location) -> Source:
    """Returns a source that reads a location; the caller must close it."""
    if isinstance(location, FilesLocation):
        return DirectorySource(Path("/"), None, {path: Path(file) for path, file in location.files.items()})
    if isinstance(location, DirectoryLocation):
        return DirectorySource(Path(location.directory), location.stats, beneath=[Path(root) for root in location.beneath])
    return S3Source(shared_client(), location.bucket, location.objects)


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


class Sink:
    """Writes files to a sink, each in one go, in bounded memory; safe to use from several threads for different files."""

    def __init__(self, location: SinkLocation, client: Any = None) -> None:
        self._location = location
        self._client: Any = client or (shared_client() if isinstance(location, S3Sink) else None)

    def open(self, path: str, size: int) -> AbstractContextManager[Write]:
        """A function that takes the file's bytes in order; the file is durable when the block ends without an error."""
        if isinstance(self._location, S3Sink):
            return self._s3({"Bucket": self._location.bucket, "Key": f"{self._location.prefix}/{path}"}, size)
        return self._local(Path(self._location.directory) / path)

    def put(self, path: str, content: bytes) -> None:
        """Writes a small file."""
        with self.open(path, len(content)) as write:
            write(memoryview(content))

    def keep(self, files: Mapping[str, str]) -> None:
        """Where the sink is a store's in S3: copies files (path -> sha256) to where the store has them under their digests."""
        if not isinstance(self._location, S3Sink):
            return
        bucket, prefix = self._location.bucket, self._location.prefix
        for path, digest in files.items():
            with translated():
                found = self._client.head_object(Bucket=bucket, Key=f"{prefix}/{path}")
            written = Object(f"{prefix}/{path}", found["ContentLength"], found["ETag"])
            copy_object(self._client, bucket, written, bucket, f"{self._location.store}{layout.blob(digest)}")

    @contextmanager
    def _local(self, target: Path) -> Iterator[Write]:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _s3(self, at: dict[str, str], size: int) -> Iterator[Write]:
        client = self._client
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
