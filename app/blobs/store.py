"""The protocol of blob stores."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from app.blobs.locations import Location, SinkLocation, StoreLocation
from app.core.source import Source


class BlobInfo(NamedTuple):
    """Bytes in a store: age in seconds by its own clock, size in bytes."""

    digest: str
    age: float
    size: int


class DirectTransfers(Protocol):
    """Bytes that go straight between clients and the store, in parts (numbered from 1), by addresses that we sign."""

    def begin(self, upload: str, name: str) -> str:
        """Starts a staged file that is sent in parts; the store's own id of it."""

    def arrived(self, upload: str, name: str, multipart: str) -> dict[int, int] | None:
        """Size in bytes of every part that is there, by number; None when it was completed or given up."""

    def part_url(self, upload: str, name: str, multipart: str, number: int) -> str:
        """Where a part is PUT, for an hour."""

    def complete(self, upload: str, name: str, multipart: str) -> None:
        """Makes the staged file of its parts; it is still believed nothing."""

    def url(self, digest: str, filename: str) -> str:
        """Where bytes can be fetched, for an hour."""


class BlobStore(Protocol):
    """Content-addressed bytes, and uploads on their way there. Safe to use from several threads.

    Names of staged files are ours (numbers, job outputs), never a user's.

    Attributes:
        write_bytes: how large appends should be.
        direct: None where clients cannot reach the store itself.
    """

    write_bytes: int

    @property
    def direct(self) -> DirectTransfers | None: ...

    def check(self) -> None:
        """Makes a round trip, and raises what stands in its way; what hangs is given up within seconds.

        Raises:
            DomainError: storage.unavailable, storage.refused, server.storage_full.
            OSError: a directory that is not there or cannot be written to.
        """

    def received(self, upload: str, name: str) -> int:
        """How many bytes of a staged file have arrived."""

    def append(self, upload: str, name: str, offset: int, data: bytes) -> int:
        """Adds bytes at `offset`, which must be what was received; returns the new count.

        Raises:
            DomainError: server.storage_full; upload.offset.
        """

    def sync_staged(self, upload: str, name: str) -> None:
        """Makes a staged file durable. Call it before the row is committed, so that a recorded file survives a power failure."""

    def staged(self, upload: str, name: str) -> Source:
        """A source over a staged file as it is now, which has one path, ""; empty where nothing arrived."""

    def promote(self, upload: str, name: str, digest: str, path: str, verified: bool = False) -> None:
        """Makes a staged file durable and visible under its digest, and removes it from staging.

        Args:
            upload, name: the staged file.
            digest: its sha256.
            path: the path of the file for the error message.
            verified: if False, the file is read and hashed first. Pass True only if this service hashed the bytes while it staged
                them, under a name that no other request can write to, and called `sync_staged` before it recorded the digest. An
                empty file is hashed in any case.

        Raises:
            DomainError: upload.digest (the staged bytes are dropped).
        """

    def adopt(self, upload: str, files: Mapping[str, str]) -> None:
        """Takes files that a job of ours wrote to `sink(upload)` and digested (path -> digest) into the store.

        Raises:
            DomainError: blob.missing, when it wrote no such file.
        """

    def discard(self, upload: str) -> None:
        """Drops everything that was staged under an upload."""

    def size(self, digest: str) -> int | None:
        """Size in bytes, or None when there are no such bytes."""

    def open(self, files: Mapping[str, str]) -> Source:
        """A source whose paths are backed by blobs (path -> digest).

        Raises:
            DomainError: blob.missing.
        """

    def location(self, files: Mapping[str, str]) -> Location:
        """Returns the location of blobs (path -> digest), which a job's process opens with `app.blobs.locations.open_location`.

        Raises:
            DomainError: blob.missing.
        """

    def digests(self) -> Iterator[tuple[str, float]]:
        """All digests with their age in seconds, by the store's own clock; bytes that arrive again are young again."""

    def entries(self) -> Iterator[BlobInfo]:
        """The same with sizes."""

    def uploads(self) -> Iterator[tuple[str, float]]:
        """All uploads that have something staged, with the age of their last byte in seconds, by the store's own clock."""

    def delete(self, digest: str, older_than: float = float("-inf")) -> bool:
        """Removes bytes whose age, asked again now, is more than `older_than` seconds; whether there were such bytes."""

    def erase(self, digest: str, older_than: float = float("-inf")) -> bool:
        """The same for good: also what a store keeps of objects that were deleted or written anew."""

    def erase_upload(self, upload: str) -> None:
        """Drops what was staged under an upload, for good."""

    def traces(self, digest: str) -> int:
        """How many copies of bytes there are, those that a store keeps hidden too; asked of the store itself."""

    def where(self) -> StoreLocation:
        """The store itself, for a job's process: `app.blobs.opening.open_store` opens it."""

    def sink(self, upload: str) -> SinkLocation:
        """Returns where a job's process writes its files, opened with `app.blobs.locations.Sink`; `discard` removes them."""
