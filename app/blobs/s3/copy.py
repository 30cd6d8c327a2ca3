"""Copies inside S3, of any size, of just the object that was looked at."""

from typing import Any

from app.blobs.s3.client import is_missing, status_of, translated
from app.blobs.s3.source import Object
from app.core.errors import CheckpointError

# The largest object that one request copies; larger ones are copied in parts.
WHOLE_BYTES = 5 * 2**30
PART_BYTES = 2**30


def copy_object(client: Any, bucket: str, found: Object, to_bucket: str, to_key: str) -> None:
    """Copies an object; it is visible at its new place when it is complete.

    Raises:
        CheckpointError: checkpoint.changed, when it is not the one that was looked at any more.
        DomainError: storage.unavailable, storage.refused.
    """
    from botocore.exceptions import ClientError  # noqa: PLC0415

    source = {"CopySource": {"Bucket": bucket, "Key": found.key}}
    condition = {"CopySourceIfMatch": found.etag} if found.etag else {}
    with translated():
        try:
            if found.size <= WHOLE_BYTES:
                client.copy_object(Bucket=to_bucket, Key=to_key, **source, **condition)
            else:
                _copy_parts(client, found.size, {"Bucket": to_bucket, "Key": to_key}, {**source, **condition})
        except ClientError as error:
            if is_missing(error) or status_of(error) == 412:
                raise CheckpointError("checkpoint.changed", path=found.key, reason="its object is another or gone") from None
            raise


def _copy_parts(client: Any, size: int, target: dict[str, str], source: dict[str, Any]) -> None:
    upload = client.create_multipart_upload(**target)["UploadId"]
    try:
        parts = []
        for number, start in enumerate(range(0, size, PART_BYTES), 1):
            span = f"bytes={start}-{min(size, start + PART_BYTES) - 1}"
            copied = client.upload_part_copy(**target, **source, UploadId=upload, PartNumber=number, CopySourceRange=span)
            parts.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})
        client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})
    except BaseException:
        client.abort_multipart_upload(**target, UploadId=upload)
        raise
