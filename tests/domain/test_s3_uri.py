"""Addresses in S3: what may be one, and which lie below which."""

import pytest

from app.domain.errors import DomainError
from app.domain.s3_uri import S3Uri


@pytest.mark.parametrize(
    ("address", "bucket", "prefix", "text"),
    [
        ("s3://models", "models", "", "s3://models"),
        ("s3://models/", "models", "", "s3://models"),
        ("s3://models/llama-3/v2/", "models", "llama-3/v2", "s3://models/llama-3/v2"),
        ("s3://my.models/A_b=c@d+e", "my.models", "A_b=c@d+e", "s3://my.models/A_b=c@d+e"),
    ],
)
def test_s3_uri_is_parsed_without_trailing_slashes(address: str, bucket: str, prefix: str, text: str) -> None:
    """Slashes at the end do not count."""
    place = S3Uri.parse(address)
    assert (place.bucket, place.prefix, str(place)) == (bucket, prefix, text)
    assert place.key("config.json") == (f"{prefix}/config.json" if prefix else "config.json")


@pytest.mark.parametrize(
    "address",
    ["", "models/x", "https://models/x", "s3://", "s3:///x", "s3://UPPER/x", "s3://b/x", "s3://models//x", "s3://models/a/../b",
     "s3://models/./a", "s3://models/a b", "s3://models/a?b", "s3://models/ä", "s3://models/" + "a" * 1024],
)  # fmt: skip
def test_ambiguous_s3_uri_is_refused(address: str) -> None:
    """Whatever could mean two things is refused."""
    with pytest.raises(DomainError) as caught:
        S3Uri.parse(address)
    assert caught.value.code == "place.invalid"


def test_s3_uri_is_below_another_by_whole_names() -> None:
    """Whole names count."""
    listed = ["s3://models/team", "s3://open"]
    for address in ("s3://models/team", "s3://models/team/x", "s3://open", "s3://open/any/thing"):
        S3Uri.parse(address).require_below(listed)
    for address in ("s3://models", "s3://models/team2", "s3://models/other/team", "s3://opened"):
        with pytest.raises(DomainError) as caught:
            S3Uri.parse(address).require_below(listed)
        assert caught.value.code == "place.not_allowed"
