"""Buckets that keep old versions and do not show them: what is seen is removed, and nobody says that nothing is left."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.blobs.s3 import client
from app.blobs.s3.client import S3Options, shared_client
from app.blobs.s3.versions import held
from app.domain.errors import DomainError
from tests.support.fixtures import Models, on_sqlite
from tests.support.models import Shelf
from tests.support.purge_sites import WHY, PurgeSite, opened
from tests.support.registry import Service
from tests.support.s3 import S3Server
from tests.support.s3_faults import Fault, FaultyS3

pytestmark = on_sqlite  # what buckets say


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[FaultyS3]:
    with FaultyS3(s3.url) as started:
        yield started


@pytest.fixture(scope="module")
def place(registries: Callable[..., Service], models: Models, shelf: Shelf, s3: S3Server, proxy: FaultyS3) -> Iterator[PurgeSite]:
    with opened(registries, models, shelf, s3, proxy.url, in_s3=True) as found:
        yield found


@pytest.fixture(autouse=True)
def well(proxy: FaultyS3) -> Iterator[None]:
    yield
    proxy.well()


def hides(proxy: FaultyS3, fault: Fault, also_says_nothing: bool = False) -> None:
    """The bucket shows no versions; and does not say either whether it keeps any."""

    def choose(method: str, path: str) -> Fault | None:
        query = path.partition("?")[2].split("&")
        asked = {part.partition("=")[0] for part in query}
        hidden = "versions" in asked or (also_says_nothing and "versioning" in asked)
        return fault if method == "GET" and hidden else None

    proxy.choose = choose


def keep_versions(place: PurgeSite, status: str) -> None:
    place.s3.client().put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": status})


def version_with_a_copy(place: PurgeSite) -> tuple[str, str, list[str]]:
    """A patch, where its merged model lies, and the digests of its files."""
    patch = place.published()
    target = place.written(place.service.admin.port(patch, "v2")["id"])["target"]
    files = place.operator.get(f"/patches/{patch}/versions/1").json()["files"]
    return patch, target, [file["sha256"] for file in files]


def again(place: PurgeSite, patch: str) -> dict[str, Any]:
    return dict(place.operator.post(f"/patches/{patch}/versions/1/purge", WHY).json()["erasure"])


@pytest.mark.parametrize("fault", ["403", "501"])
def test_versions_that_are_not_shown(place: PurgeSite, proxy: FaultyS3, fault: Fault) -> None:
    """Pending, with the reason and what the operator must do; what could be seen is gone. When they are shown, all goes."""
    keep_versions(place, "Enabled")
    try:
        patch, target, digests = version_with_a_copy(place)
        hides(proxy, fault)
        report = place.purge(patch)["erasure"]
        assert report["state"] == "pending"
        for part in [*report["blobs"], *report["copies"]]:
            assert not part["removed"]
            assert fault in part["problem"]
            assert "ListBucketVersions" in part["problem"]
            assert "Enabled" in part["problem"]
        assert place.objects(target) == {}
        assert not any(place.is_there(digest) for digest in digests)
        verified = place.operator.get(f"/patches/{patch}/versions/1/erasure").json()
        assert verified["state"] == "pending"
        assert any(digest in key for digest in digests for key in hidden_keys(place))
        proxy.well()
        assert again(place, patch)["state"] == "done"
        left = hidden_keys(place)
        assert not any(digest in key for digest in digests for key in left)
        assert not any(key.startswith(target.removeprefix(f"s3://{place.bucket}/")) for key in left)
    finally:
        keep_versions(place, "Suspended")


def hidden_keys(place: PurgeSite) -> set[str]:
    pages = place.s3.client().get_paginator("list_object_versions").paginate(Bucket=place.bucket)
    return {entry["Key"] for page in pages for entry in page.get("Versions", ())}


@pytest.fixture
def restored_options() -> Iterator[None]:
    """The options of S3's clients are what they were, whatever a test made of them."""
    before = client.options()
    yield
    client.configure(before)


@pytest.mark.usefixtures("restored_options")
def test_a_store_that_says_nothing(place: PurgeSite, proxy: FaultyS3) -> None:
    """It may keep versions: only the operator's word that it has none ends it."""
    patch, target, _ = version_with_a_copy(place)
    hides(proxy, "501", also_says_nothing=True)
    report = place.purge(patch)["erasure"]
    assert report["state"] == "pending"
    assert all("GetBucketVersioning: 501" in part["problem"] for part in [*report["blobs"], *report["copies"]])
    client.configure(S3Options(keeps_no_versions=True))
    assert again(place, patch)["state"] == "done"
    assert place.objects(target) == {}


def test_what_others_have_too_needs_no_proof(place: PurgeSite, proxy: FaultyS3, tmp_path: Path) -> None:
    """Bytes that stay for another version stay in all their versions."""
    directory = place.fresh_patch()
    first, second = place.published(directory), place.published(directory)
    hides(proxy, "501", also_says_nothing=True)
    report = place.purge(first)["erasure"]
    assert report["state"] == "done"
    assert {blob["kept_for"] for blob in report["blobs"]} == {f"{second}@1"}


def test_a_bucket_that_never_kept_any(proxy: FaultyS3, s3: S3Server) -> None:
    """Says so: what it lists is all there is. One that says that it keeps them, or nothing, is no proof."""
    bucket, client = s3.bucket(), s3.client()
    client.put_object(Bucket=bucket, Key="a/b", Body=b"x")
    with pytest.MonkeyPatch.context() as patched:
        for name, value in s3.environment(proxy.url).items():
            patched.setenv(name, value)
        hides(proxy, "501")
        found = list(held(shared_client(), bucket, "a/", is_proof=True))
        assert [(one.key, one.version, one.marker) for one in found] == [("a/b", None, False)]
        hides(proxy, "403", also_says_nothing=True)
        assert list(held(shared_client(), bucket, "a/")) == found
        with pytest.raises(DomainError) as refused:
            list(held(shared_client(), bucket, "a/", is_proof=True))
    assert refused.value.code == "storage.hidden"
    assert refused.value.data == {"bucket": bucket, "reason": "ListObjectVersions: 403; GetBucketVersioning: 403"}
