"""Copies inside S3, of any size, of just the object that was looked at."""

from collections.abc import Sequence
from typing import Any

from app.blobs.s3.client import is_missing, status_of, translated
from app.blobs.s3.source import Object
from app.core.errors import CheckpointError

# The largest object that one request copies; larger ones are copied in parts.
WHOLE_BYTES = 5 * 2**30
PART_BYTES = 2**30
# S3's limits for multipart uploads: the size of a part (except the last one) and the number of parts.
LEAST_PART_BYTES, MAX_PARTS = 5 * 2**20, 10_000


def copy_object(client: Any, bucket: str, found: Object, to_bucket: str, to_key: str) -> None:
    """Copies an object; it is visible at its new place when it is complete.

    Raises:
        CheckpointError: checkpoint.changed, when it is not the one that was looked at any more.
        DomainError: storage.unavailable, storage.refused.
    """
    join_objects(client, bucket, [found], to_key, to_bucket)


def can_be_joined(found: Sequence[Object]) -> bool:
    """Returns whether the store can join the objects itself: all but the last one have at least the minimum size of a part."""
    return len(found) == 1 or (1 < len(found) <= MAX_PARTS and all(one.size >= LEAST_PART_BYTES for one in found[:-1]))


def join_objects(client: Any, bucket: str, found: Sequence[Object], to_key: str, to_bucket: str | None = None) -> None:
    """Concatenates objects into one within the store; see `can_be_joined` and `copy_object`."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    target = {"Bucket": to_bucket or bucket, "Key": to_key}
    with translated():
        try:
            if len(found) == 1 and found[0].size <= WHOLE_BYTES:
                client.copy_object(**target, **_source(bucket, found[0]))
            else:
                _copy_parts(client, bucket, found, target)
        except ClientError as error:
            if is_missing(error) or status_of(error) == 412:
                raise CheckpointError("checkpoint.changed", path=found[0].key, reason="its object is another or gone") from None
            raise


def _source(bucket: str, found: Object) -> dict[str, Any]:
    condition = {"CopySourceIfMatch": found.etag} if found.etag else {}
    return {"CopySource": {"Bucket": bucket, "Key": found.key}, **condition}


def _copy_parts(client: Any, bucket: str, found: Sequence[Object], target: dict[str, str]) -> None:
    upload = client.create_multipart_upload(**target)["UploadId"]
    try:
        parts = []
        spans = [(one, start) for one in found for start in range(0, one.size, PART_BYTES)]
        for number, (one, start) in enumerate(spans, 1):
            span = f"bytes={start}-{min(one.size, start + PART_BYTES) - 1}"
            copied = client.upload_part_copy(
                **target, **_source(bucket, one), UploadId=upload, PartNumber=number, CopySourceRange=span
            )
            parts.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})
        client.complete_multipart_upload(**target, UploadId=upload, MultipartUpload={"Parts": parts})
    except BaseException:
        client.abort_multipart_upload(**target, UploadId=upload)
        raise
