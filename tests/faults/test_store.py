"""S3 on a bad day: errors, resets, cut bodies and silence. What can pass is tried again; what stays is a 503, never a 500."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.offline import merge
from tests.faults import tally
from tests.faults.operations import digests, manifest_in_s3
from tests.faults.rounds import LONG, ROUNDS
from tests.support.cloud import Cloud
from tests.support.s3 import S3Server
from tests.support.s3_faults import FaultyS3
from tests.support.service_process import Service, invoke
from tests.support.uploads import with_card

BACKEND = "SQLite, S3"
STALL_SECONDS = 1.5  # longer than the service waits for an answer
pytestmark = pytest.mark.timeout(LONG)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyS3]:
    with FaultyS3(s3.url) as started:
        yield started


@pytest.fixture
def shaky(request: pytest.FixtureRequest, s3: S3Server, proxy: FaultyS3, models: Path, tmp_path: Path) -> Iterator[Cloud]:
    """A service that reaches S3 through the proxy only, and tries as often as the parameter says; nothing in it yet."""
    bucket = s3.bucket()
    for name in ("v1", "v2"):
        s3.upload(models / name, bucket, f"upstream/{name}")
    environment = s3.environment(proxy.url) | {
        "PORTLLM_BLOBS": f"s3://{bucket}/registry", "PORTLLM_JOB_CONCURRENCY": "2",
        "PORTLLM_S3_READ_TIMEOUT": "1", "AWS_MAX_ATTEMPTS": str(request.param),
        "PORTLLM_ALLOW_S3": f'["s3://{bucket}/upstream", "s3://{bucket}/exports"]',
    }  # fmt: skip
    service = Service(tmp_path, models, **environment).start()
    try:
        yield Cloud(service, s3, bucket, models)
    finally:
        service.kill()


@pytest.mark.parametrize("shaky", [6], indirect=True)
def test_the_main_job_in_bad_weather(shaky: Cloud, proxy: FaultyS3, models: Path, tmp_path: Path) -> None:
    """A tenth of all requests fails in some way; everything still comes to its end, with the right bytes, and nothing is left."""
    merge(models / "v2", models / "patch", tmp_path / "merged")
    proxy.stall_seconds = STALL_SECONDS
    proxy.now_and_then(0.1, seed=1)
    for name in ("v1", "v2"):  # both at once
        _patiently(shaky, "release", "add", "shaky", name, "--from", f"{shaky.upstream}/{name}")
    for name in ("v1", "v2"):
        _patiently(shaky, "release", "add", "shaky", name, "--from", f"{shaky.upstream}/{name}", "--wait")
    _patiently(shaky, "patch", "push", "shaky/tone", models / "patch", "--family", "shaky", "--trained-on", "v1")
    _patiently(shaky, "port", "shaky/tone", "--to", "v2")
    for number in range(ROUNDS):
        with tally.one_round("S3 in bad weather", ["ingestion", "upload", "merged read", "materialisation"], BACKEND):
            _register_and_publish(shaky, tmp_path, number)
            _pull_and_write(shaky, tmp_path, number)
    proxy.well()
    met = dict(proxy.met)
    assert sum(met.values()) >= 5, met
    print(f"faults met: {met}")
    assert not [key for key in shaky.s3.multiparts(shaky.bucket) if key.startswith("exports/")]


def _register_and_publish(shaky: Cloud, place: Path, number: int) -> None:
    """Registers a release, copied every other time, and publishes a patch; the registry knows the true digests of both."""
    release, patch = f"round{number}", with_card(shaky.models / "patch", place / f"patch{number}", f"round {number}")
    _patiently(
        shaky, "release", "add", "shaky", release, "--from", f"{shaky.upstream}/v2", "--wait", *(["--copy"] if number % 2 else [])
    )
    _patiently(shaky, "patch", "push", f"shaky/round{number}", patch, "--family", "shaky", "--trained-on", release)
    with shaky.service.client() as client:
        manifest = client.get(f"/families/shaky/releases/{release}").raise_for_status().json()["manifest"]
        versions = client.get(f"/patches/shaky/round{number}/versions").raise_for_status().json()["items"]
    assert [version["number"] for version in versions] == [1]
    assert {file["path"]: file["sha256"] for file in versions[0]["files"]} == digests(patch)
    assert manifest_in_s3(shaky.s3, shaky.bucket, manifest) == digests(shaky.models / "v2")


def _pull_and_write(shaky: Cloud, place: Path, number: int) -> None:
    """Reads the merged model whole, and has it written to S3; both have the bytes of the local merge."""
    expected = digests(place / "merged")
    _patiently(shaky, "pull", "shaky/tone", place / f"out{number}", "--on", "v2")
    assert digests(place / f"out{number}") == expected
    _patiently(shaky, "materialise", "shaky/tone", "--on", "v2", "--to", f"{shaky.exports}/model{number}")
    client, prefix, found = shaky.s3.client(), f"exports/model{number}/", {}
    for key in shaky.s3.objects(shaky.bucket, prefix):
        found[key.removeprefix(prefix)] = hashlib.sha256(
            client.get_object(Bucket=shaky.bucket, Key=key)["Body"].read()
        ).hexdigest()
    assert found == expected


@pytest.mark.parametrize("shaky", [2], indirect=True)
def test_a_store_that_stays_away(shaky: Cloud, proxy: FaultyS3, models: Path) -> None:
    """Whatever it does, the answer is a 503 with a code and a remedy; when it is back, the same request succeeds."""
    shaky.run("release", "add", "shaky", "v1", "--from", f"{shaky.upstream}/v1", "--wait")
    proxy.stall_seconds = STALL_SECONDS
    for fault in ("500", "503", "reset", "cut", "stall"):
        with tally.one_round(f"S3 stays away: {fault}", ["upload"], BACKEND):
            proxy.choose = lambda _method, _path, fault=fault: fault
            push = ["patch", "push", f"shaky/{fault}", models / "patch", "--family", "shaky", "--trained-on", "v1"]
            assert "[storage.unavailable]" in shaky.refused(*push)
            proxy.well()
            shaky.run(*push)


def test_a_store_that_refuses(s3: S3Server, models: Path, tmp_path: Path) -> None:
    """Wrong credentials are the operator's to mend, and are said so."""
    environment = s3.environment() | {"PORTLLM_BLOBS": f"s3://{s3.bucket()}/x", "AWS_SECRET_ACCESS_KEY": "wrong"}
    service = Service(tmp_path, models, **environment).start()
    try:
        ended = invoke("release", "add", "f", "v1", "--from", models / "v1", "--wait", "--json", **service.variables())
        assert "storage.refused" in ended.output, ended.output
        assert "wrong" not in ended.output
    finally:
        service.kill()


def _patiently(cloud: Cloud, *arguments: str | Path) -> None:
    """As a person would: the same command again when it says that the store does not answer."""
    for _ in range(12):
        ended = invoke(*arguments, "--json", **cloud.service.variables())
        if ended.exit_code == 0:
            return
        codes = {"storage.unavailable", "job.crashed", "client.connection", "pull.size", "upload.store", "upload.incomplete"}
        text = ended.output
        assert any(code in text for code in codes), text
        json.loads(ended.stdout.split("\n}\n")[0] + "\n}")
    raise AssertionError(text)
