"""`portllm events --follow`: goes on where it was when a stream ends, and ends when the service refuses it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.service_process import Service, environment, until


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose streams of events last two seconds."""
    service = Service(tmp_path_factory.mktemp("own"), PORTLLM_EVENT_STREAM_SECONDS="2").start()
    yield service
    service.kill()


def test_following_goes_on_when_streams_end(own: Service, tmp_path: Path) -> None:
    """Every event is printed once, however often it connects; it ends when its token does."""
    with own.client() as client:
        made = client.post("/tokens", json={"owner": "acme", "scopes": ["read"]}).raise_for_status().json()
        variables = own.variables() | {"PORTLLM_TOKEN": made["token"]}
        command = [sys.executable, "-m", "app.cli.main", "events", "--follow"]
        out = tmp_path / "out"
        with out.open("w") as stdout:
            follower = subprocess.Popen(
                command, env=environment(**variables), stdout=stdout, stderr=subprocess.PIPE, text=True
            )  # fmt: skip
        try:
            for name in ("one", "two", "three"):
                client.post("/families", json={"name": name, "readers": ["*"]}).raise_for_status()
                until(lambda name=name: ("family.created", name) in told(out))
                streams = ended(own)
                until(lambda streams=streams: ended(own) > streams)
            client.delete(f"/tokens/{made['id']}").raise_for_status()
            _, complaint = follower.communicate(timeout=90)
        finally:
            follower.kill()
    assert told(out) == [
        ("token.created", made["id"]),
        *((kind, name) for name in ("one", "two", "three") for kind in ("family.created", "family.granted")),
    ]
    assert (follower.returncode, "[token.missing]" in complaint) == (1, True), complaint


def told(out: Path) -> list[tuple[str, str]]:
    """Kind and subject of the events that were printed."""
    lines = [line.split("  ") for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [(kind, subject) for _id, _at, kind, subject, _actor in lines]


def ended(own: Service) -> float:
    """How many streams have ended: a request is counted at its end."""
    counted = 'portllm_requests_total{method="GET",route="/api/v1/events",status="200"}'
    lines = httpx.get(f"{own.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(counted))
