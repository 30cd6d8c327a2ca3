"""An embedded service whose database has no space left: what runs ends or goes on by itself when there is space again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.disk import ROOM, Disk, mounted
from tests.support.service_process import Service, until
from tests.support.sparse_models import large_release

FULL = "There is no space left on a disk of the registry."
LAYERS = 60  # 1.5 GB of holes: it is read for seconds
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk") as found:
        yield found


@pytest.fixture
def service(tmp_path: Path, disk: Disk) -> Iterator[Service]:
    """Its database lies on the small disk, its bytes do not."""
    (tmp_path / "releases").mkdir()
    url = f"sqlite:///{disk.place}/portllm.db"
    started = Service(tmp_path, tmp_path / "releases", PORTLLM_DATABASE_URL=url).start()
    yield started
    started.kill()


def exhaust(client: httpx.Client) -> None:
    """Writes until the log of the database has no room either."""
    for number in range(2000):
        answer = client.post("/families", json={"name": f"filler-{number}", "description": "x" * 500})
        if answer.status_code == 507:
            return
        assert answer.status_code == 201, answer.text
    raise AssertionError("the database is never full")


def unready(service: Service) -> dict[str, Any] | None:
    """How each part answered, of a service that is not ready."""
    answer = httpx.get(f"{service.url}/readyz", timeout=30)
    return None if answer.status_code == 200 else dict(answer.json()["data"]["parts"])


@pytest.mark.parametrize("outcome", ["ready", "rejected"])
def test_a_job_that_ends_while_the_database_is_full_is_recorded_when_there_is_space(
    tmp_path: Path, disk: Disk, service: Service, outcome: str
) -> None:
    """Neither its success nor its failure is lost, and it does not stay running for ever."""
    large_release(tmp_path / "releases/large", LAYERS)
    with service.client() as client:
        client.post("/families", json={"name": "full"}).raise_for_status()
        body = {"name": "v1", "directory": str(tmp_path / "releases/large")}
        job = client.post("/families/full/releases", json=body).raise_for_status().json()["job"]
        until(service.jobs)
        disk.leave(0)
        exhaust(client)
        if outcome == "rejected":
            (tmp_path / "releases/large/config.json").write_text("{}")  # it changed while it was read
        until(lambda: not service.jobs(), 60)
        assert client.get(f"/jobs/{job}").json()["state"] == "running"
        parts = until(lambda: unready(service), 30)
        assert {name: part["reason"] for name, part in parts.items() if not part["ok"]} == {"writes": FULL}
        disk.leave(ROOM)
        until(lambda: unready(service) is None, 30)
        row = until(lambda: (r := client.get("/families/full/releases/v1").json())["state"] != "ingesting" and r, 60)
        assert row["state"] == outcome, row
        ended = until(lambda: (r := client.get(f"/jobs/{job}").json())["state"] != "running" and r, 60)
        assert ended["state"] == ("done" if outcome == "ready" else "failed"), ended
        events = client.get("/events", params={"limit": 500}).json()
        told = [event["kind"] for event in events["items"] if event["subject"] == job]
        while events["items"]:
            events = client.get("/events", params={"limit": 500, "after": events["cursor"]}).json()
            told += [event["kind"] for event in events["items"] if event["subject"] == job]
    assert told.count("job.done") + told.count("job.failed") == 1, told
    service.stop()
