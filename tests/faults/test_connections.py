"""More work at once than PostgreSQL has connections: two processes on a server with its default of 100.

`make soak` runs the long form: 60 publishes, 300 port checks and 200 event streams.
"""

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.database_upgrade import upgrade
from tests.support.postgres import own_server
from tests.support.service_process import PATIENCE, until
from tests.support.uploads import announced, append, with_card
from tests.support.workers import Fleet

IS_LONG = "PORTLLM_SOAK_ROUNDS" in os.environ
PUBLISHES, CHECKS, STREAMS = (60, 300, 200) if IS_LONG else (12, 40, 24)
OWNERS = ("one", "two", "three", "four")
CONNECTIONS = 100
# A second on an idle machine; tests share theirs.
SECONDS = 5.0 * PATIENCE
FROM_HERE = httpx.Timeout(120.0)


class Replicas(Fleet):
    """A service of two processes, whose first runs the jobs too."""

    def arguments(self) -> list[str]:
        return [*super().arguments(), "--processes", "2"]


@dataclass
class Probe:
    """Asks small things again and again while others work; the longest answer of each, in seconds."""

    service: Replicas
    token: str
    longest: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[str, int]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with httpx.Client(base_url=self.service.url, timeout=FROM_HERE) as client:
            while not self.over.is_set():
                for path in ("/healthz", "/readyz", "/api/v1/whoami", "/api/v1/patches"):
                    began = time.monotonic()
                    answer = client.get(path, headers={"Authorization": f"Bearer {self.token}"})
                    self.longest[path] = max(self.longest[path], time.monotonic() - began)
                    if answer.status_code != 200:
                        self.refused.append((path, answer.status_code))
                self.over.wait(0.02)


@pytest.fixture
def service(models: Path, tmp_path: Path) -> Iterator[Replicas]:
    with own_server() as server:
        server.execute(f"ALTER SYSTEM SET max_connections = {CONNECTIONS}")
        server.stop("fast")
        server.start()
        url = server.create()
        upgrade(url)
        started = Replicas(tmp_path, url, models, PORTLLM_JOBS="true", PORTLLM_WARM="false")
        started.start()
        try:
            yield started
        finally:
            started.kill()


def test_load_beyond_the_connections_is_refused_with_retry_after(service: Replicas, models: Path, tmp_path: Path) -> None:
    """What is not done at once is refused and told when to come back, and the small requests of another owner go on."""
    with service.client() as admin:
        tokens = {owner: token(admin, owner) for owner in (*OWNERS, "probe")}
        admin.post("/families", json={"name": "llama", "readers": ["*"]}).raise_for_status()
        registered = admin.post("/families/llama/releases", json={"name": "v1", "directory": str(models / "v1")})
        registered.raise_for_status()
        until(lambda: admin.get("/families/llama/releases/v1").json()["state"] == "ready")
    uploads = [prepared(service, models, tmp_path, owner, tokens[owner]) for owner in OWNERS]
    probe = Probe(service, tokens["probe"])
    thread = threading.Thread(target=probe.run)
    thread.start()
    wanted = [(owner, ident) for owner, idents in zip(OWNERS, uploads, strict=True) for ident in idents]
    answers = asyncio.run(load(service, tokens, wanted))
    probe.over.set()
    thread.join()
    print({kind: dict(Counter(a.status_code for a in found)) for kind, found in answers.items()}, dict(probe.longest))
    for found in answers.values():
        codes = {answer.json()["code"] for answer in found if answer.status_code != 200}
        assert codes <= {"server.busy", "database.busy"}
        assert all("retry-after" in answer.headers for answer in found if answer.status_code != 200)
        assert any(answer.status_code == 200 for answer in found)
    assert probe.refused == []
    assert max(probe.longest.values()) < SECONDS


async def load(
    service: Replicas, tokens: dict[str, str], uploads: list[tuple[str, str]]
) -> dict[str, list[httpx.Response]]:  # fmt: skip
    """Everything at once; the answers, by kind."""
    limits = httpx.Limits(max_connections=None)
    begun = asyncio.Event()
    async with httpx.AsyncClient(base_url=f"{service.url}/api/v1", timeout=FROM_HERE, limits=limits) as client:

        def headers(owner: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {tokens[owner]}"}

        async def stream(number: int) -> httpx.Response:
            wanted = headers(OWNERS[number % len(OWNERS)]) | {"Accept": "text/event-stream"}
            async with client.stream("GET", "/events", headers=wanted) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                else:
                    await begun.wait()
                return answer

        async def check(number: int) -> httpx.Response:
            owner = OWNERS[number % len(OWNERS)]
            wish = {"patch": f"{owner}/base", "release": "v1"}
            return await client.post("/ports/check", json=wish, headers=headers(owner))

        async def publish(owner: str, ident: str) -> httpx.Response:
            return await client.post(f"/uploads/{ident}/publish", headers=headers(owner))

        streams = [asyncio.create_task(stream(number)) for number in range(STREAMS)]
        checks = [check(number) for number in range(CHECKS)]
        done = await asyncio.gather(*checks, *(publish(*upload) for upload in uploads))
        begun.set()
        return {"checks": done[:CHECKS], "publishes": done[CHECKS:], "streams": await asyncio.gather(*streams)}


def token(admin: httpx.Client, owner: str) -> str:
    made = admin.post("/tokens", json={"owner": owner, "scopes": ["read", "publish"]})
    made.raise_for_status()
    return str(made.json()["token"])


def prepared(service: Replicas, models: Path, place: Path, owner: str, secret: str) -> list[str]:
    """A published patch `base` of an owner, and drafts whose bytes have arrived; their ids."""
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=f"{service.url}/api/v1", headers=headers, timeout=FROM_HERE) as client:
        for name in ("base", "more"):
            client.post("/patches", json={"owner": owner, "name": name, "family": "llama"}).raise_for_status()
        base = drafted(client, owner, "base", models / "patch")
        client.post(f"/uploads/{base}/publish").raise_for_status()
        cards = [with_card(models / "patch", place / f"{owner}{n}", f"{owner} {n}") for n in range(PUBLISHES // len(OWNERS))]
        return [drafted(client, owner, "more", card) for card in cards]


def drafted(client: httpx.Client, owner: str, name: str, directory: Path) -> str:
    body = {"trained_on": "v1", "files": announced(directory)}
    draft: dict[str, Any] = client.post(f"/patches/{owner}/{name}/versions", json=body).raise_for_status().json()
    for upload in draft["uploads"]:
        if upload["received"] < upload["size"]:
            content = (directory / upload["path"]).read_bytes()
            append(client.request, upload["url"].removeprefix("/api/v1"), 0, content).raise_for_status()
    return str(draft["id"])
