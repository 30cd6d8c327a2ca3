"""A job that was interrupted too often is given up, and the release says so."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.service_process import Service, until
from tests.support.sparse_models import large_release


def test_an_ingestion_that_is_given_up_rejects_the_release(tmp_path: Path) -> None:
    """Not left as "ingesting" for ever: it is rejected within seconds, and can be registered again."""
    directory = large_release(tmp_path / "models/huge", 200)
    service = Service(tmp_path, tmp_path / "models").start()
    body = {"name": "huge", "directory": str(directory)}
    try:
        with service.client() as client:
            client.post("/families", json={"name": "poison"}).raise_for_status()
            job = client.post("/families/poison/releases", json=body).raise_for_status().json()["job"]
            until(service.jobs)
        service.kill()
        # As after a series of crashes; each would cost a start of the service here.
        with closing(sqlite3.connect(service.data / "portllm.db")) as database, database:
            database.execute("UPDATE workflow_status SET recovery_attempts = 100 WHERE workflow_uuid = ?", (job,))
        service.start()
        with service.client() as client:
            until(lambda: client.get("/families/poison/releases/huge").json()["state"] == "rejected", 30)
            problem = client.get("/families/poison/releases/huge").json()["problem"]
            assert problem["code"] == "job.crashed"
            assert "None" not in problem["detail"]
            assert client.get(f"/jobs/{job}").json()["state"] == "failed"
            told = [e["kind"] for e in client.get("/events", params={"limit": 500}).json()["items"] if e["subject"] == job]
            assert told == ["job.started", "job.failed"]
            again = client.post("/families/poison/releases", json=body).raise_for_status().json()
            assert again["state"] == "ingesting"
            assert again["job"] != job
            until(service.jobs)
    finally:
        service.kill()
    until(lambda: not service.jobs(), 10)
