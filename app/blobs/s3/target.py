"""A directory in S3 that a merged model is written to: complete when its last file is there, and nobody else's before.

Every object carries the fingerprint of the recipe, so that a repeat finds what it wrote and never mistakes a stranger's file
for its own.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from app.core.errors import CheckpointError, OutputError

FINGERPRINT, COPIED = "portllm-fingerprint", "portllm-copied"


class Origin(NamedTuple):
    """Where bytes are copied from inside the store."""

    bucket: str
    key: str
    etag: str


class S3Target:
    """Objects below one prefix.

    Args:
        client: of boto3, for S3.
        bucket: where.
        prefix: without a slash at its end; "" for the whole bucket.
        fingerprint: names the merged bytes.
    """

    def __init__(self, client: Any, bucket: str, prefix: str, fingerprint: str) -> None:
        self._client, self._bucket, self._fingerprint = client, bucket, fingerprint
        self._prefix = f"{prefix}/" if prefix else ""

    def present(self, sizes: dict[str, int]) -> dict[str, int]:
        """The files that are there already, as this recipe made them: how many of their bytes the store copied, by path.

        Args:
            sizes: path -> size in bytes of every file that will be written.

        Raises:
            OutputError: output.exists, when something else lies at the place.
        """
        found = {}
        for key, size in self._objects():
            path = key.removeprefix(self._prefix)
            said = self._client.head_object(Bucket=self._bucket, Key=key)["Metadata"] if sizes.get(path) == size else {}
            if said.get(FINGERPRINT) != self._fingerprint:
                raise OutputError("output.exists", path=f"s3://{self._bucket}/{key}")
            copied = said.get(COPIED, "")
            found[path] = int(copied) if copied.isdigit() else 0
        return found

    def begin(self, path: str, copied: int) -> str:
        """Starts an object that is written in parts, of which the store will copy so many bytes; its upload id."""
        said = {FINGERPRINT: self._fingerprint, COPIED: str(copied)}
        begun = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._key(path), Metadata=said)
        return str(begun["UploadId"])

    def copy_part(self, path: str, upload: str, number: int, origin: Origin, start: int, stop: int) -> str:
        """Has the store copy bytes [start, stop) of an object; the part's ETag.

        Raises:
            CheckpointError: checkpoint.changed, when the object is not the one that was registered any more.
        """
        from botocore.exceptions import ClientError  # noqa: PLC0415

        try:
            copied = self._client.upload_part_copy(
                Bucket=self._bucket, Key=self._key(path), UploadId=upload, PartNumber=number,
                CopySource={"Bucket": origin.bucket, "Key": origin.key}, CopySourceIfMatch=origin.etag,
                CopySourceRange=f"bytes={start}-{stop - 1}",
            )  # fmt: skip
        except ClientError as error:
            status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"].get("Code")
            if status in (404, 412) and code != "NoSuchUpload":  # that is about the parts, not about the origin
                raise CheckpointError("checkpoint.changed", path=origin.key, reason="its ETag differs") from None
            raise
        return str(copied["CopyPartResult"]["ETag"])

    def put_part(self, path: str, upload: str, number: int, data: bytes | bytearray) -> str:
        """Sends a part; its ETag. The store checks it against its MD5."""
        sent = self._client.upload_part(
            Bucket=self._bucket, Key=self._key(path), UploadId=upload, PartNumber=number, Body=data, ContentMD5=_md5(data)
        )
        return str(sent["ETag"])

    def complete(self, path: str, upload: str, etags: Sequence[str]) -> None:
        """Makes an object of its parts, in order: from now on it is visible."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
        self._client.complete_multipart_upload(
            Bucket=self._bucket, Key=self._key(path), UploadId=upload, MultipartUpload={"Parts": parts}
        )

    def put(self, path: str, data: bytes | bytearray) -> None:
        """Writes a small object at once."""
        self._client.put_object(
            Bucket=self._bucket, Key=self._key(path), Body=data, ContentMD5=_md5(data), Metadata={FINGERPRINT: self._fingerprint}
        )

    def abort(self, path: str, upload: str) -> None:
        """Forgets the parts of an object that was not completed."""
        self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._key(path), UploadId=upload)

    def abort_all(self, paths: Iterable[str]) -> int:
        """Forgets all parts that lie at these files' places, whoever left them; returns how many uploads that were."""
        keys = {self._key(path) for path in paths}
        left = [u for u in self._uploads() if u["Key"] in keys]
        for upload in left:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        return len(left)

    def _key(self, path: str) -> str:
        return f"{self._prefix}{path}"

    def _objects(self) -> Iterator[tuple[str, int]]:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix):
            yield from ((entry["Key"], entry["Size"]) for entry in page.get("Contents", ()))

    def _uploads(self) -> Iterator[dict[str, str]]:
        for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=self._prefix):
            yield from page.get("Uploads", ())


def _md5(data: bytes | bytearray) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
