"""Removing a merged model from the place that it was written to: what carries its fingerprint, every version of it, and parts."""

from collections.abc import Sequence
from typing import NamedTuple

from app.blobs.s3 import versions
from app.blobs.s3.client import shared_client
from app.blobs.s3.target import FINGERPRINT
from app.blobs.s3.versions import Held
from app.domain.s3_uri import S3Uri


class Other(NamedTuple):
    """Where another merged model lies, or is being written, at the same place or below it."""

    place: S3Uri
    fingerprint: str


def copies(place: S3Uri, fingerprint: str, others: Sequence[Other], is_proof: bool = True) -> list[Held]:
    """The versions below a place that are of a merged model, and of no other.

    Raises:
        DomainError: storage.unavailable, storage.refused; storage.hidden, where it is a proof and there may be others.
    """
    client = shared_client()
    spared = [other.place for other in others if other.fingerprint == fingerprint]
    found = versions.held(client, place.bucket, place.key(""), is_proof)
    ours = [one for one in found if not one.marker and not _below(one.key, place, spared)]
    written = ((one, versions.metadata(client, place.bucket, one)) for one in ours)
    return [one for one, said in written if said is not None and said.get(FINGERPRINT) == fingerprint]


def erase(place: S3Uri, fingerprint: str, others: Sequence[Other]) -> tuple[int, int]:
    """Removes them, the markers that hid them, and the parts of what was not finished; then looks again.

    Returns:
        How many versions and unfinished uploads were removed, and how many versions are there still.

    Raises:
        DomainError: storage.unavailable, storage.refused; storage.hidden, when what was seen is removed.
    """
    client, start = shared_client(), place.key("")
    found = copies(place, fingerprint, others, is_proof=False)
    removed = versions.remove(client, place.bucket, found)
    keys, rest = {one.key for one in found}, list[Held]()
    if keys:
        rest = list(versions.held(client, place.bucket, start))
        still = {one.key for one in rest if not one.marker}
        versions.remove(client, place.bucket, (one for one in rest if one.marker and one.key in keys - still))
    elsewhere = [other.place for other in others]
    removed += versions.abort(client, place.bucket, start, lambda key: not _below(key, place, elsewhere))
    return removed, len(copies(place, fingerprint, others))


def _below(key: str, place: S3Uri, others: Sequence[S3Uri]) -> bool:
    return any(S3Uri(place.bucket, key).is_below(other) for other in others)
