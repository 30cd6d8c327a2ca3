"""The blob store in S3, or in any service with the same protocol.

Only this service writes bytes under a digest, after it has hashed them; until then, bytes from clients are under staging/. A
file that was hashed while it was staged is joined within the store. A file that a client sent directly to the store is first
read and hashed.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.blobs import layout
from app.blobs.locations import S3Location, S3Sink, S3Store, Sink
from app.blobs.s3 import versions
from app.blobs.s3.client import clock_of, impatient_client, is_missing, make_client, shared_client, status_of, translated
from app.blobs.s3.copy import can_be_joined, copy_object, join_objects
from app.blobs.s3.direct import S3Direct
from app.blobs.s3.source import Object, S3Pieces, S3Source
from app.blobs.store import BlobInfo
from app.core.source import Source
from app.domain.errors import DomainError
from app.domain.s3_uri import S3Uri
from app.single_flight import SingleFlight

READ_BYTES = 8 * 2**20
REMEMBERED = 20_000


class S3Blobs:
    """`app.blobs.store.BlobStore` below a prefix of a bucket.

    Args:
        place: s3://bucket/prefix.
        public_endpoint: where clients reach the store, if not at the address that we use.
        direct: whether clients may send and fetch bytes straight to and from it.
    """

    write_bytes = 8 * 2**20

    def __init__(self, place: str, public_endpoint: str = "", direct: bool = True) -> None:
        found = S3Uri.parse(place)
        self._bucket, self._prefix = found.bucket, f"{found.prefix}/" if found.prefix else ""
        self._client = shared_client()
        outside = make_client(public_endpoint) if public_endpoint else self._client
        self.direct = S3Direct(self._client, outside, self._bucket, self._prefix) if direct else None
        self._sizes: SingleFlight[str, int] = SingleFlight(REMEMBERED)  # bytes under a digest never change

    def check(self) -> None:
        # A listing, because a HEAD of a bucket that is not there looks like one of an object that is not there.
        with translated():
            impatient_client().list_objects_v2(Bucket=self._bucket, Prefix=self._key(layout.BLOBS), MaxKeys=1)

    def received(self, upload: str, name: str) -> int:
        return sum(found.size for found in self._staged(upload, name))

    def append(self, upload: str, name: str, offset: int, data: bytes) -> int:
        received = self.received(upload, name)
        if received != offset:
            raise DomainError("upload.offset", path=name, received=received, offset=offset)
        if not data:
            return offset
        key = self._key(layout.staged_part(upload, name, offset))
        with translated():
            # Only the first of two that begin at one place is kept.
            written = self._unless(412, self._client.put_object, Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*")
        if written is None:
            raise DomainError("upload.offset", path=name, received=self.received(upload, name), offset=offset)
        return offset + len(data)

    def sync_staged(self, upload: str, name: str) -> None:
        pass  # every object is durable

    def staged(self, upload: str, name: str) -> Source:
        return S3Pieces(self._client, self._bucket, self._staged(upload, name))

    def promote(self, upload: str, name: str, digest: str, path: str, verified: bool = False) -> None:
        staged = self._staged(upload, name)
        if verified and can_be_joined(staged):
            join_objects(self._client, self._bucket, staged, self._blob(digest))
        elif len(staged) == 1:
            self._require(self._hash(staged[0]), digest, path, staged)
            copy_object(self._client, self._bucket, staged[0], self._bucket, self._blob(digest))
        else:
            self._join(staged, digest, path)
        self._delete(found.key for found in staged)

    def adopt(self, upload: str, files: Mapping[str, str]) -> None:
        for path, digest in files.items():
            if self.size(digest) is not None:
                continue  # the job copied it there itself
            found = self._head(self._key(layout.staged(upload, path)))
            if found is None:
                raise DomainError("blob.missing", digest=digest)
            copy_object(self._client, self._bucket, found, self._bucket, self._blob(digest))

    def discard(self, upload: str) -> None:
        prefix = self._key(layout.staged(upload, ""))
        with translated():
            for page in self._pages("list_multipart_uploads", prefix):
                for begun in page.get("Uploads", ()):
                    self._client.abort_multipart_upload(Bucket=self._bucket, Key=begun["Key"], UploadId=begun["UploadId"])
        self._delete(entry["Key"] for entry in self._list(prefix))

    def size(self, digest: str) -> int | None:
        found = self._head(self._blob(digest))
        return found.size if found else None

    def open(self, files: Mapping[str, str]) -> Source:
        return S3Source(self._client, self._bucket, {path: self._object(digest) for path, digest in files.items()})

    def location(self, files: Mapping[str, str]) -> S3Location:
        return S3Location(self._bucket, {path: self._object(digest) for path, digest in files.items()})

    def where(self) -> S3Store:
        return S3Store(str(S3Uri(self._bucket, self._prefix.rstrip("/"))))

    def sink(self, upload: str) -> S3Sink:
        prefix = self._key(layout.staged(upload, "")).rstrip("/")
        return S3Sink(self._bucket, prefix, self._prefix)

    def digests(self) -> Iterator[tuple[str, float]]:
        yield from (entry[:2] for entry in self.entries())

    def entries(self) -> Iterator[BlobInfo]:
        for entry, present in self._dated(self._key(layout.BLOBS)):
            age = (present - entry["LastModified"]).total_seconds()
            yield BlobInfo(entry["Key"].rpartition("/")[2], age, entry["Size"])

    def uploads(self) -> Iterator[tuple[str, float]]:
        start, newest = self._key(layout.STAGING), dict[str, float]()

        def found(key: str, age: dt.timedelta) -> None:
            upload = key.removeprefix(start).partition("/")[0]
            newest[upload] = min(newest.get(upload, float("inf")), age.total_seconds())

        for entry, present in self._dated(start):
            found(entry["Key"], present - entry["LastModified"])
        with translated():
            for page in self._pages("list_multipart_uploads", start):
                for begun in page.get("Uploads", ()):
                    found(begun["Key"], clock_of(page) - begun["Initiated"])
        yield from newest.items()

    def delete(self, digest: str, older_than: float = float("-inf")) -> bool:
        """Not atomic in S3: the caller must exclude writers of the same bytes (`UnitOfWork.hold_gc`)."""
        with translated():
            held = self._unless(404, self._client.head_object, Bucket=self._bucket, Key=self._blob(digest))
        if held is None or (clock_of(held) - held["LastModified"]).total_seconds() <= older_than:
            return False
        self._sizes.forget(digest)
        self._delete([self._blob(digest)])
        return True

    def erase(self, digest: str, older_than: float = float("-inf")) -> bool:
        removed, key = self.delete(digest, older_than), self._blob(digest)
        if not removed and self.size(digest) is not None:  # it is young
            return False
        found = [one for one in versions.held(self._client, self._bucket, key) if one.key == key]
        return bool(versions.remove(self._client, self._bucket, found)) or removed

    def erase_upload(self, upload: str) -> None:
        prefix = self._key(layout.staged(upload, ""))
        versions.abort(self._client, self._bucket, prefix, lambda _: True)
        versions.remove(self._client, self._bucket, list(versions.held(self._client, self._bucket, prefix)))

    def traces(self, digest: str) -> int:
        key = self._blob(digest)
        found = versions.held(self._client, self._bucket, key, is_proof=True)
        return sum(one.key == key and not one.marker for one in found)

    # -- what lies where

    def _key(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def _blob(self, digest: str) -> str:
        return self._key(layout.blob(digest))

    def _object(self, digest: str) -> Object:
        def look() -> int:
            size = self.size(digest)
            if size is None:
                raise DomainError("blob.missing", digest=digest)
            return size

        return Object(self._blob(digest), self._sizes.get(digest, look), None)

    def _staged(self, upload: str, name: str) -> list[Object]:
        """The objects of a staged file in order: one that was sent straight here, or the appended ones without a gap."""
        entries = sorted(self._list(self._key(layout.staged(upload, name)) + "/"), key=lambda entry: str(entry["Key"]))
        found, end = [], 0
        for entry in entries:
            start = entry["Key"].rpartition("/")[2]
            if start.isdigit() and int(start) != end:
                break
            found.append(Object(entry["Key"], entry["Size"], entry["ETag"]))
            end += entry["Size"]
        return found

    def _head(self, key: str) -> Object | None:
        with translated():
            found = self._unless(404, self._client.head_object, Bucket=self._bucket, Key=key)
        return Object(key, found["ContentLength"], found["ETag"]) if found else None

    def _list(self, prefix: str) -> Iterator[dict[str, Any]]:
        with translated():
            for page in self._pages("list_objects_v2", prefix):
                yield from page.get("Contents", ())

    def _dated(self, prefix: str) -> Iterator[tuple[dict[str, Any], dt.datetime]]:
        """What lies below a prefix, and the present by the store's clock."""
        with translated():
            for page in self._pages("list_objects_v2", prefix):
                present = clock_of(page)
                yield from ((entry, present) for entry in page.get("Contents", ()))

    def _pages(self, operation: str, prefix: str) -> Iterator[dict[str, Any]]:
        yield from self._client.get_paginator(operation).paginate(Bucket=self._bucket, Prefix=prefix)

    # -- bytes

    def _hash(self, found: Object) -> str:
        source, hashed, buffer = S3Source(self._client, self._bucket, {"": found}), hashlib.sha256(), bytearray(READ_BYTES)
        for start in range(0, found.size, READ_BYTES):
            part = memoryview(buffer)[: min(READ_BYTES, found.size - start)]
            source.read_into("", start, part)
            hashed.update(part)
        return hashed.hexdigest()

    def _join(self, staged: list[Object], digest: str, path: str) -> None:
        """Appended pieces pass through here once: what is hashed is what is written."""
        total, hashed, buffer = sum(found.size for found in staged), hashlib.sha256(), bytearray(READ_BYTES)
        key = self._blob(digest)
        folder, _, name = key.rpartition("/")
        sink = Sink(S3Sink(self._bucket, folder), self._client)
        with sink.open(name, total) as write:
            for found in staged:
                source = S3Source(self._client, self._bucket, {"": found})
                for start in range(0, found.size, READ_BYTES):
                    part = memoryview(buffer)[: min(READ_BYTES, found.size - start)]
                    source.read_into("", start, part)
                    hashed.update(part)
                    write(part)
            self._require(hashed.hexdigest(), digest, path, staged)

    def _require(self, actual: str, expected: str, path: str, staged: Iterable[Object]) -> None:
        if actual != expected:
            self._delete(found.key for found in staged)
            raise DomainError("upload.digest", path=path, actual=actual, expected=expected)

    def _delete(self, keys: Iterable[str]) -> None:
        with translated():
            for key in list(keys):
                self._client.delete_object(Bucket=self._bucket, Key=key)

    @staticmethod
    def _unless(status: int, call: Any, **arguments: Any) -> Any:
        """The answer of a call; None where it is refused with a status."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        try:
            return call(**arguments)
        except ClientError as error:
            if status_of(error) == status or (status == 404 and is_missing(error)):
                return None
            raise
