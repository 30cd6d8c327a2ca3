"""Removing objects for good: where a bucket keeps versions, deleting an object only hides it behind a marker.

Not every bucket shows us its versions. What is seen is removed all the same; that nothing is left is said only where a
bucket shows them, or says that it never kept any, or the operator says so for stores that have none.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from app.blobs.s3.client import is_missing, options, status_of, translated
from app.domain.errors import DomainError

# What stores say that know no versions, or do not show them to us.
NOT_SHOWN = (400, 403, 404, 405, 501)


class Held(NamedTuple):
    """One version of an object, or a marker that hides the others; `version` is None where the store knows no versions."""

    key: str
    version: str | None
    marker: bool

    def address(self, bucket: str) -> dict[str, str]:
        at = {"Bucket": bucket, "Key": self.key}
        return at if self.version is None else {**at, "VersionId": self.version}


def held(client: Any, bucket: str, prefix: str, is_proof: bool = False) -> Iterator[Held]:
    """Everything whose key begins with a prefix, hidden or not.

    Args:
        client, bucket, prefix: where.
        is_proof: whether it is asked to know that there is nothing else.

    Raises:
        DomainError: storage.unavailable, storage.refused; storage.hidden, at the end, where there may be more than was shown.
    """
    from botocore.exceptions import ClientError  # noqa: PLC0415

    with translated():
        try:
            for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix):
                yield from (Held(entry["Key"], entry["VersionId"], False) for entry in page.get("Versions", ()))
                yield from (Held(entry["Key"], entry["VersionId"], True) for entry in page.get("DeleteMarkers", ()))
            return
        except ClientError as error:
            if status_of(error) not in NOT_SHOWN:
                raise
            refusal = f"ListObjectVersions: {status_of(error)}"
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            yield from (Held(entry["Key"], None, False) for entry in page.get("Contents", ()))
        if is_proof:
            _require_none_kept(client, bucket, refusal)


def _require_none_kept(client: Any, bucket: str, refusal: str) -> None:
    """Raises `DomainError` (storage.hidden) unless a bucket that shows no versions has none."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    if options().keeps_no_versions:
        return
    try:
        status = client.get_bucket_versioning(Bucket=bucket).get("Status")
    except ClientError as error:
        said = f"GetBucketVersioning: {status_of(error)}"
    else:
        if status is None:  # S3 says nothing of a bucket that never kept any
            return
        said = f"its versioning is {status}"
    raise DomainError("storage.hidden", bucket=bucket, reason=f"{refusal}; {said}")


def remove(client: Any, bucket: str, found: Iterable[Held]) -> int:
    """Removes versions and markers; how many of them held bytes."""
    count = 0
    with translated():
        for one in found:
            client.delete_object(**one.address(bucket))
            count += not one.marker
    return count


def abort(client: Any, bucket: str, prefix: str, chosen: Callable[[str], bool]) -> int:
    """Forgets the parts of unfinished uploads below a prefix whose keys are chosen; how many uploads that were."""
    with translated():
        pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        begun = [upload for page in pages for upload in page.get("Uploads", ()) if chosen(upload["Key"])]
        for upload in begun:
            client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return len(begun)


def metadata(client: Any, bucket: str, one: Held) -> dict[str, str] | None:
    """What is written on a version; None when it is gone."""
    from botocore.exceptions import ClientError  # noqa: PLC0415

    with translated():
        try:
            return dict(client.head_object(**one.address(bucket))["Metadata"])
        except ClientError as error:
            if is_missing(error):
                return None
            raise
