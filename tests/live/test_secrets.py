"""The main job of a service that logs all it can, on PostgreSQL and S3: every line is JSON, and no secret is in any."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.database_upgrade import upgrade
from tests.support.fake_hub import SIGNATURE, FakeHub, running_hub
from tests.support.postgres import own_server
from tests.support.s3 import SECRET, S3Server
from tests.support.service_process import Service, invoke

UPSTREAM = "hf_the-token-of-the-upstream"
PASSWORD, KEY, METRICS = "the-database-password", "the-secret-key-of-this-installation", "the-metrics-token"


@pytest.fixture(scope="module")
def talkative(s3: S3Server, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """A service that runs its jobs, and the place of its models."""
    bucket, root = s3.bucket(), tmp_path_factory.mktemp("talkative")
    with own_server() as server:
        url = make_url(server.create()).set(password=PASSWORD).render_as_string(hide_password=False)
        upgrade(url)
        known = {
            "PORTLLM_DATABASE_URL": url, "PORTLLM_SECRET_KEY": KEY, "PORTLLM_METRICS_TOKEN": METRICS, "PORTLLM_JOBS": "true",
            "PORTLLM_LOG_FORMAT": "json", "PORTLLM_LOG_LEVEL": "debug", "PORTLLM_BLOBS": f"s3://{bucket}/registry",
            "PORTLLM_ALLOW_S3": f'["s3://{bucket}/exports", "s3://{bucket}/upstream"]', **s3.environment(),
        }  # fmt: skip
        service = Service(root, models, **known).start()
        try:
            yield service, f"s3://{bucket}/exports/tone"
        finally:
            service.kill()


@pytest.fixture(scope="module")
def hub(models: Path) -> Iterator[FakeHub]:
    """A hub that wants a token, with a release and a patch."""
    with running_hub() as hub:
        hub.token = UPSTREAM
        hub.add("org/llama", models / "v1")
        hub.add("org/patch", models / "patch")
        yield hub


def test_the_main_job_and_its_log(talkative: tuple[Service, str], hub: FakeHub, models: Path, tmp_path: Path) -> None:
    """Registered, sent straight to S3, ported, pulled, written out, from another hub too, and a refusal; then every line is
    looked at.
    """
    service, target = talkative
    known = service.variables()
    hosts = ("--private-host", "127.0.0.1", "--http-host", "127.0.0.1", "--token-stdin")
    added = invoke("upstream", "add", "own", "--endpoint", hub.url, *hosts, given=UPSTREAM, **known)
    assert added.exit_code == 0, added.output
    base = json.loads((models / "patch" / "adapter_config.json").read_text())["base_model_name_or_path"]
    for arguments in (
        ("release", "add", "llama", "v1", "--from", models / "v1", "--wait"),
        ("patch", "push", "acme/tone", models / "patch", "--family", "llama", "--trained-on", "v1"),
        ("port", "acme/tone", "--to", "v1"), ("pull", "acme/tone", tmp_path / "out", "--on", "v1"),
        ("patch", "pull", "acme/tone", tmp_path / "patch"), ("materialise", "acme/tone", "--on", "v1", "--to", target),
        ("release", "add", "pulled", "v1", "--from", "own:org/llama", "--wait"), ("upstream", "ls"),
        ("family", "alias", "add", "pulled", base), ("patch", "import", "own:org/patch", "--owner", "acme"),
        ("token", "create", "acme", "--scope", "read"),
    ):  # fmt: skip
        ended = invoke(*arguments, **known)
        assert ended.exit_code == 0, (arguments, ended.output)
    made = re.findall(r"plt_[A-Za-z0-9_-]+", ended.output)
    (tmp_path / "empty").mkdir()
    with service.client() as client:
        client.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {METRICS}"}).raise_for_status()
        signed = client.get("/patches/acme/tone/versions/1/files/adapter_config.json", follow_redirects=False).headers["location"]
        registered = client.post(
            "/families/llama/releases",
            json={"name": "v2", "directory": str(models / "v2")}, headers={"X-Request-Id": "from-me"},
        )  # fmt: skip
        job = registered.raise_for_status().json()["job"]
    service.stop()
    text = service.errors()
    assert [line for line in text.splitlines() if not line.startswith("{")] == []
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "name", "message", "request_id", "job_id"} <= line.keys() for line in lines)
    ids = {line["job_id"] for line in lines if line["job_id"]}
    assert {ident.split(":")[1] for ident in ids} == {"ingest", "digest", "materialise", "import"}
    assert [line["request_id"] for line in lines if line["job_id"] == job][:1] == ["from-me"]
    assert [line for line in lines if line["level"] == "DEBUG"]
    signature = re.search(r"X-Amz-Signature=(\w+)", signed)
    assert signature
    assert made
    for secret in (service.token, *made, PASSWORD, KEY, METRICS, SECRET, signature[1], UPSTREAM, SIGNATURE):
        assert secret not in text
    assert not re.search(r"(?i)signature=(?!\*\*\*)\w", text)
