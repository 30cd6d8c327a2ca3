"""A job that meets a failure that can pass is tried again, later each time; a refusal is not; what used-up tries look like."""

import datetime as dt
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.jobs.runner import ATTEMPTS
from tests.support.s3 import S3Server
from tests.support.s3_faults import FaultyS3
from tests.support.service_process import Service, invoke, until


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[FaultyS3]:
    with FaultyS3(s3.url) as started:
        yield started


@pytest.fixture(scope="module")
def service(s3: S3Server, proxy: FaultyS3, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with family away, which reads releases through the proxy, and says when it starts a process."""
    bucket = s3.bucket()
    s3.upload(models / "v1", bucket, "upstream/v1")
    s3.client().put_object(Bucket=bucket, Key="upstream/bad/config.json", Body=b"{}")
    known = s3.environment(proxy.url) | {
        "AWS_MAX_ATTEMPTS": "1", "PORTLLM_ALLOW_S3": f'["s3://{bucket}/upstream"]', "PORTLLM_LOG_FORMAT": "json",
        "PORTLLM_LOG_LEVEL": "debug",
    }  # fmt: skip
    service = Service(tmp_path_factory.mktemp("retries"), models, **known).start()
    service.upstream = f"s3://{bucket}/upstream"  # type: ignore[attr-defined]
    with service.client() as client:
        client.post("/families", json={"name": "away"}).raise_for_status()
    yield service
    service.kill()


def processes(service: Service, job: str) -> list[dt.datetime]:
    """When each process of a job was started."""
    lines = [json.loads(line) for line in service.errors().splitlines()]
    began = [x for x in lines if x["job_id"] == job and x["name"] == "portllm.job" and x["message"].endswith("began")]
    return [dt.datetime.fromisoformat(line["time"].replace(",", ".")) for line in began]


def ended(client: httpx.Client, job: str) -> dict[str, Any]:
    until(lambda: client.get(f"/jobs/{job}").json()["state"] in ("done", "failed"), 60)
    return dict(client.get(f"/jobs/{job}").json())


def test_what_can_pass_is_tried_again(service: Service, proxy: FaultyS3) -> None:
    """Three processes, each later than the one before; then it is failed, says why, and can be started again by hand."""
    proxy.choose = lambda _method, path: "503" if "upstream" in path else None
    with service.client() as client:
        body = {"name": "v1", "directory": f"{service.upstream}/v1"}  # type: ignore[attr-defined]
        job = client.post("/families/away/releases", json=body).raise_for_status().json()["job"]
        shown = ended(client, job)
        assert (shown["state"], shown["attempt"], shown["problem"]["code"]) == ("failed", 1, "storage.unavailable")
        began = processes(service, job)
        assert len(began) == ATTEMPTS
        first, second = ((later - earlier).total_seconds() for earlier, later in pairwise(began))
        assert first >= 2
        assert second >= 4
        release = client.get("/families/away/releases/v1").json()
        assert (release["state"], release["problem"]["code"]) == ("rejected", "storage.unavailable")
        told = [e["kind"] for e in client.get("/events", params={"limit": 500}).json()["items"] if e["subject"] == job]
        assert told == ["job.started", "job.failed"]
        proxy.well()
        again = invoke("jobs", "retry", job, "--json", **service.variables())
        assert again.exit_code == 0, again.output
        assert ended(client, json.loads(again.stdout)["id"])["state"] == "done"
        assert client.get("/families/away/releases/v1").json()["state"] == "ready"


def test_a_refusal_is_not(service: Service, proxy: FaultyS3) -> None:
    """One process: the same bytes would be refused again."""
    proxy.well()
    with service.client() as client:
        body = {"name": "bad", "directory": f"{service.upstream}/bad"}  # type: ignore[attr-defined]
        job = client.post("/families/away/releases", json=body).raise_for_status().json()["job"]
        assert ended(client, job)["problem"]["code"] == "checkpoint.architecture"
        assert len(processes(service, job)) == 1
