"""The Hub protocol where every byte lies in S3, and where S3 is away for a while."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.core.offline import merge
from tests.support.cloud import Cloud
from tests.support.merging import digests
from tests.support.s3 import S3Server
from tests.support.s3_faults import FaultyS3
from tests.support.service_process import Service
from tests.support.stock_clients import Clients, seen

MERGED = "cloud/tone.merged"


@pytest.fixture(scope="module")
def proxy(s3: S3Server) -> Iterator[FaultyS3]:
    with FaultyS3(s3.url) as started:
        yield started


@pytest.fixture(scope="module")
def shaky(s3: S3Server, proxy: FaultyS3, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """cloud/tone, trained on v1 and ported to v2, with blobs and releases behind the proxy."""
    bucket, root = s3.bucket(), tmp_path_factory.mktemp("hub")
    for name in ("v1", "v2"):
        s3.upload(models / name, bucket, f"upstream/{name}")
    environment = s3.environment(proxy.url) | {
        "PORTLLM_BLOBS": f"s3://{bucket}/registry", "PORTLLM_ALLOW_S3": f'["s3://{bucket}/upstream"]',
        "PORTLLM_DIRECT_TRANSFERS": "true",
    }  # fmt: skip
    service = Service(root, models, **environment).start()
    found = Cloud(service, s3, bucket, models)
    try:
        for name in ("v1", "v2"):
            found.run("release", "add", "cloud", name, "--from", f"{found.upstream}/{name}", "--wait")
        found.run("patch", "push", "cloud/tone", models / "patch", "--family", "cloud", "--trained-on", "v1")
        found.run("port", "cloud/tone", "--to", "v2")
        yield found
    finally:
        service.kill()


def client(cloud: Cloud) -> httpx.Client:
    headers = {"Authorization": f"Bearer {cloud.service.token}"}
    return httpx.Client(base_url=cloud.service.url, headers=headers, timeout=60)


def test_bytes_come_through_the_registry(shaky: Cloud, models: Path, tmp_path: Path) -> None:
    """Of the merge, of the base, of the patch: no client is sent to a store, with its token in hand."""
    merge(models / "v2", models / "patch", tmp_path / "out")
    expected = digests(tmp_path / "out")
    with client(shaky) as asked:
        listed = [entry["path"] for entry in asked.get(f"/api/models/{MERGED}/tree/v2").json()]
        got = {path: asked.get(f"/{MERGED}/resolve/v2/{path}") for path in listed if path != "README.md"}
        assert {answer.status_code for answer in got.values()} == {200}
        assert {path: hashlib.sha256(answer.content).hexdigest() for path, answer in got.items()} == expected
        weights = asked.get("/cloud/tone/resolve/1/adapter_model.safetensors", headers={"Range": "bytes=9-99"})
        assert (weights.status_code, weights.content) == (206, (models / "patch/adapter_model.safetensors").read_bytes()[9:100])


@pytest.mark.parametrize("fault", ["503", "stall", "reset"])
def test_a_store_that_is_away(shaky: Cloud, proxy: FaultyS3, fault: str) -> None:
    """HEAD says 503 and when to come back, before its client gives up waiting; what is listed needs no store."""
    proxy.stall_seconds = 20.0
    with client(shaky) as asked:
        sha = asked.get(f"/api/models/{MERGED}/revision/v2").json()["sha"]
        path = next(e["path"] for e in asked.get(f"/api/models/{MERGED}/tree/v2").json() if e["path"].endswith(".safetensors"))
        time.sleep(2.1)  # a look is good for two seconds
        proxy.choose = lambda _method, _path: fault  # type: ignore[return-value]
        try:
            began = time.monotonic()
            head = asked.head(f"/{MERGED}/resolve/v2/{path}")
            assert (head.status_code, head.headers["Retry-After"]) == (503, "2")
            assert time.monotonic() - began < 9
            began = time.monotonic()
            assert asked.get(f"/api/models/{MERGED}/revision/{sha}").json()["sha"] == sha
            assert asked.get(f"/{MERGED}/resolve/{sha}/README.md").status_code == 200
            assert time.monotonic() - began < 9
        finally:
            proxy.well()


def test_a_client_that_comes_meanwhile(shaky: Cloud, proxy: FaultyS3, tmp_path: Path) -> None:
    """It tries again by itself, and has its file when the store is back."""
    with client(shaky) as asked:
        path = next(e["path"] for e in asked.get(f"/api/models/{MERGED}/tree/v2").json() if e["path"].endswith(".safetensors"))
        expected = hashlib.sha256(asked.get(f"/{MERGED}/resolve/v2/{path}").content).hexdigest()
    clients = Clients(shaky.service.url, shaky.service.token, tmp_path)
    time.sleep(2.1)
    proxy.met.clear()
    proxy.choose = lambda _method, _path: "503"
    try:
        process = clients.script("fetch", MERGED, "v2", path)
        deadline = time.monotonic() + 60
        while not proxy.met["503"] and time.monotonic() < deadline:
            time.sleep(0.1)
        assert proxy.met["503"]
        threading.Timer(2.0, proxy.well).start()
        assert seen(process)["sha256"] == expected
    finally:
        proxy.well()
