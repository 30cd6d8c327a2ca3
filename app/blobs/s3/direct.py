"""Bytes that go straight between clients and S3: multipart uploads and downloads by presigned addresses.

A client needs nothing but the addresses; it is believed nothing. What arrived is told by S3, and hashed by us before it counts.
"""

from typing import Any
from urllib.parse import quote

from app.blobs import layout
from app.blobs.s3.client import is_missing, translated

SECONDS = 3600
PART_BYTES = 16 * 2**20
MAX_PARTS = 10_000


def part_bytes(size: int) -> int:
    """Size of all parts but the last of a file that is sent straight to S3."""
    return max(PART_BYTES, -(-size // MAX_PARTS))


class S3Direct:
    """`app.blobs.store.DirectTransfers`.

    Args:
        client: for what we do ourselves.
        outside: for what clients do: it signs for the address that they use.
        bucket, prefix: where the store lies.
    """

    def __init__(self, client: Any, outside: Any, bucket: str, prefix: str) -> None:
        self._client, self._outside, self._bucket, self._prefix = client, outside, bucket, prefix

    def begin(self, upload: str, name: str) -> str:
        with translated():
            return str(self._client.create_multipart_upload(**self._at(upload, name))["UploadId"])

    def arrived(self, upload: str, name: str, multipart: str) -> dict[int, int] | None:
        parts = self._parts(upload, name, multipart)
        return None if parts is None else {part["PartNumber"]: part["Size"] for part in parts}

    def part_url(self, upload: str, name: str, multipart: str, number: int) -> str:
        arguments = {**self._at(upload, name), "UploadId": multipart, "PartNumber": number}
        return str(self._outside.generate_presigned_url("upload_part", Params=arguments, ExpiresIn=SECONDS))

    def complete(self, upload: str, name: str, multipart: str) -> None:
        parts = [{"PartNumber": p["PartNumber"], "ETag": p["ETag"]} for p in self._parts(upload, name, multipart) or ()]
        with translated():
            self._client.complete_multipart_upload(**self._at(upload, name), UploadId=multipart, MultipartUpload={"Parts": parts})

    def url(self, digest: str, filename: str) -> str:
        arguments = {
            "Bucket": self._bucket, "Key": f"{self._prefix}{layout.blob(digest)}",
            "ResponseContentDisposition": f"attachment; filename*=UTF-8''{quote(filename)}",
        }  # fmt: skip
        return str(self._outside.generate_presigned_url("get_object", Params=arguments, ExpiresIn=SECONDS))

    def _parts(self, upload: str, name: str, multipart: str) -> list[dict[str, Any]] | None:
        """What the store has; None when it knows no such upload, or none any more."""
        from botocore.exceptions import ClientError  # noqa: PLC0415

        with translated():
            pages = self._client.get_paginator("list_parts").paginate(**self._at(upload, name), UploadId=multipart)
            try:
                return [part for page in pages for part in page.get("Parts", ())]
            except ClientError as error:
                if is_missing(error):
                    return None
                raise

    def _at(self, upload: str, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{layout.staged_whole(upload, name)}"}
