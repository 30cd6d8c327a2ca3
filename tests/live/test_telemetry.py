"""What a running service tells of itself: metrics, a log for machines, and no secrets in either."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.service_process import Service, environment


def test_metrics_and_log(models: Path, tmp_path: Path) -> None:
    """Counts by route, never by path; each request has a line with its id; tokens are in neither."""
    service = Service(tmp_path, models, PORTLLM_LOG_FORMAT="json").start()
    try:
        with service.client() as client:
            client.get("/families/nobody-knows-this", headers={"X-Request-Id": "my-request"})
            client.get("/whoami")
            ready = client.get(service.url + "/readyz").raise_for_status().json()
            text = client.get(service.url + "/metrics").text
        assert ready["parts"].keys() == {"database", "writes", "blobs", "jobs"}
        assert all(part["ok"] for part in ready["parts"].values())
        assert 'portllm_requests_total{method="GET",route="/api/v1/families/{family}",status="404"} 1.0' in text
        assert 'portllm_jobs{class="cpu",kind="ingest",state="queued"} 0.0' in text
        assert 'portllm_up{part="jobs"} 1.0' in text
        assert "nobody-knows-this" not in text
        lines = [json.loads(line) for line in service.errors().splitlines()]
        mine = next(line for line in lines if line.get("request_id") == "my-request")
        assert (mine["route"], mine["status"], mine["owner"]) == ("/api/v1/families/{family}", 404, "admin")
        assert service.token not in service.errors()
    finally:
        service.stop()


def test_metrics_are_not_for_strangers(models: Path, tmp_path: Path) -> None:
    """Where a token is set, everybody needs it; where none is, only clients of this machine for whom no proxy speaks get in."""
    code = (
        "import sys; from fastapi.testclient import TestClient; from pathlib import Path\n"
        "from app.main import create_app; from app.settings import Settings\n"
        "app = create_app(Settings(data=Path(sys.argv[1]), jobs=False, metrics_token=sys.argv[2]))\n"
        "from dbos import run_dbos_database_migrations\n"
        "with TestClient(app, client=('203.0.113.5', 1)) as c:\n"
        "    run_dbos_database_migrations(app.state.registry.settings.database_url)\n"
        "    headers = ({}, {'Authorization': 'Bearer x'}, {'Authorization': 'Bearer for-metrics'})\n"
        "    print([c.get('/metrics', headers=h).status_code for h in headers])\n"
        "    local = TestClient(app, client=('127.0.0.1', 1))\n"
        "    print([local.get('/metrics', headers=h).status_code for h in (*headers, {'X-Forwarded-For': '203.0.113.5'})])\n"
    )
    for token, expected in (
        ("for-metrics", "[401, 401, 200]\n[401, 401, 200, 401]\n"),
        ("", "[401, 401, 401]\n[200, 200, 200, 401]\n"),
    ):
        command = [sys.executable, "-c", code, str(tmp_path), token]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
        assert ended.stdout == expected, ended.stderr


def test_fsck_beside_a_service(service: Service) -> None:
    """It looks at what a service serves, and finds nothing wrong."""
    command = [sys.executable, "-m", "app.cli.main", "fsck", "--data", str(service.data), "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert (ended.returncode, json.loads(ended.stdout)["clean"]) == (0, True), ended.stdout + ended.stderr
