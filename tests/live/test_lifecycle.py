"""Starting, stopping, being in each other's way, and the live stream of events."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from app.cli.serve import ended_by_signals
from app.jobs.fork_server import SERVER
from tests.support.service_process import Service, environment, invoke, job_processes, until
from tests.support.sparse_models import large_release

HEAVY = ("torch", "transformers", "peft", "tokenizers", "safetensors.torch")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that these tests may stop."""
    root = tmp_path_factory.mktemp("own")
    large_release(root / "models/long", 8)  # 0.4 GB to read: a second or two
    service = Service(root, root / "models", PORTLLM_DRAIN_SECONDS="3600").start()  # what holds a stop up is seen
    yield service
    service.kill()


def test_the_first_start_keeps_the_admin_token(own: Service) -> None:
    """In DATA/admin-token, readable by the owner alone; where standard output is no terminal it names the file, not the token."""
    assert own.token.startswith("plt_")
    assert own.token not in own.output() + own.errors()
    assert f"The admin token is in {own.data / 'admin-token'}" in own.output()
    assert (own.data / "portllm.db").stat().st_mode & 0o777 == 0o600
    assert (own.data / "admin-token").stat().st_mode & 0o777 == 0o600
    assert own.data.stat().st_mode & 0o777 == 0o700
    assert httpx.get(f"{own.url}/healthz").json() == {"status": "ok"}
    assert httpx.get(f"{own.url}/api/v1/whoami").status_code == 401
    with own.client() as client:
        assert client.get("/whoami").json()["owner"] == "admin"


def test_the_first_start_shows_the_admin_token_on_a_terminal(tmp_path: Path) -> None:
    """Once, to the person who sits there."""
    terminal, inner = os.openpty()
    command = Service(tmp_path, tmp_path).command()
    process = subprocess.Popen(command, env=environment(), stdout=inner, stderr=subprocess.DEVNULL)
    os.close(inner)
    shown = b""
    try:
        with suppress(OSError):  # the other end is closed when it ends
            while b"plt_" not in shown or not shown.endswith(b"\n"):
                shown += os.read(terminal, 4096)
    finally:
        process.terminate()
        process.wait(60)
        os.close(terminal)
    assert (tmp_path / "data/admin-token").read_text().strip() in shown.decode()


def test_a_running_job_is_taken_up_at_the_next_start(own: Service) -> None:
    """SIGTERM in the middle of an ingestion: gone within seconds with its child; afterwards the same job ends well."""
    with own.client() as client:
        client.post("/families", json={"name": "long"})
        body = {"name": "v1", "directory": str(own.root / "models/long")}
        job = client.post("/families/long/releases", json=body).raise_for_status().json()["job"]
        until(lambda: client.get(f"/jobs/{job}").json()["progress"])
    children = own.jobs()
    assert len(children) == 1
    token = own.token
    place = own.root / "tmp"
    assert len(job_processes(place, SERVER)) == 1
    assert own.stop() < 10
    until(lambda: not own.jobs() and not job_processes(place, SERVER), 5)
    own.start()
    assert own.token == token
    assert "token" not in own.output(), "it was shown once, at the first start"
    with own.client() as client:
        assert client.get(f"/jobs/{job}").json()["state"] in ("queued", "running")
        until(lambda: client.get(f"/jobs/{job}").json()["state"] == "done")
        release = client.get("/families/long/releases/v1").json()
    assert (release["state"], release["job"]) == ("ready", job)
    assert not own.jobs()


def test_a_second_service_on_the_same_data_is_refused(own: Service) -> None:
    """It ends with 1 and a sentence, and the first goes on."""
    second = subprocess.run(own.command(), capture_output=True, text=True, timeout=90, env=environment(), check=False)
    assert second.returncode == 1, second
    assert second.stderr.endswith("[data.locked]\n")
    assert second.stderr.count("\n") == 1
    assert "is in use by another service" in second.stderr
    assert not second.stdout
    assert httpx.get(f"{own.url}/healthz").status_code == 200


def test_a_port_in_use_is_refused(own: Service, tmp_path: Path) -> None:
    """It ends with 1 and a sentence, before anything is created."""
    ended = invoke("serve", "--data", tmp_path / "data", "--port", own.url.rpartition(":")[2])
    assert ended.exit_code == 1
    assert "[serve.address]" in ended.stderr
    assert "Choose another --port" in ended.stderr
    assert not (tmp_path / "data").exists()


def test_several_processes_on_sqlite_are_refused(tmp_path: Path) -> None:
    """It ends with 2 and a sentence, before anything is created."""
    ended = invoke("serve", "--data", tmp_path / "data", "--port", "0", "--processes", "2")
    assert ended.exit_code == 2
    assert "[serve.processes]" in ended.stderr
    assert "PORTLLM_DATABASE_URL" in ended.stderr
    assert not (tmp_path / "data").exists()


def test_unusable_directories_are_refused(tmp_path: Path) -> None:
    """A data directory that is a file, and a root for releases that is not there."""
    (tmp_path / "file").write_text("")
    no_data = invoke("serve", "--data", tmp_path / "file", "--port", "0")
    assert no_data.exit_code == 1
    assert "[serve.data]" in no_data.stderr
    nobody = {"PORTLLM_DATABASE_URL": "postgresql+psycopg://127.0.0.1:1/none"}  # never asked
    for words, variables in ((("db", "upgrade"), {}), (("worker",), nobody)):
        ended = invoke(*words, "--data", tmp_path / "file" / "data", **variables)
        assert (ended.exit_code, "[client.file]" in ended.stderr) == (1, True), ended.output
    no_root = invoke("serve", "--data", tmp_path / "data", "--port", "0", "--allow-root", tmp_path / "none")
    assert no_root.exit_code == 2
    assert "[serve.root]" in no_root.stderr


def test_events_arrive_while_they_happen(own: Service) -> None:
    """A stream of server-sent events: what happens now arrives now, and a client that comes back misses nothing."""
    name = f"sse{time.monotonic_ns()}"
    with own.client() as client, own.client() as other:
        cursor = client.get("/events", params={"limit": 500}).json()["cursor"]
        live = {"Accept": "text/event-stream"}
        with client.stream("GET", "/events", params={"after": cursor}, headers=live) as stream:
            assert stream.headers["Content-Type"].startswith("text/event-stream")
            events = _events(stream)
            began = time.monotonic()
            other.post("/families", json={"name": name}).raise_for_status()
            first = next(events)
            assert time.monotonic() - began < 10
        assert (first["event"], first["data"]["subject"], first["data"]["actor"]) == ("family.created", name, "admin")
        other.post("/families", json={"name": f"{name}-more"}).raise_for_status()
        with client.stream("GET", "/events", headers=live | {"Last-Event-ID": first["id"]}) as stream:
            assert next(_events(stream))["data"]["subject"] == f"{name}-more"


def test_the_application_imports_neither_torch_nor_transformers() -> None:
    """The service starts in the time that its own code takes."""
    code = f"import sys, app.main, app.cli.main; print([m for m in {HEAVY!r} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert ended.stdout.strip() == "[]"


def test_a_signal_that_comes_before_the_server_runs() -> None:
    """It is heeded as soon as there is a server; afterwards this process's own handlers are back."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for number in (signal.SIGTERM, signal.SIGINT):
        server = SimpleNamespace(should_exit=False)
        with ended_by_signals(server):
            signal.raise_signal(number)
        assert server.should_exit
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_client_that_holds_on_does_not_keep_the_service_from_stopping(own: Service) -> None:
    """An open stream of events ends in order, and takes none of the time that downloads get. Last, because it stops `own`."""
    with own.client() as client, client.stream("GET", "/events", headers={"Accept": "text/event-stream"}) as stream:
        events = _events(stream)
        next(events)
        own.stop()
        list(events)  # it ended in order


def _events(stream: httpx.Response) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in stream.iter_lines():
        if not line and event:
            yield event | {"data": json.loads(event["data"])}
            event = {}
        elif line and not line.startswith(":"):
            field, _, value = line.partition(": ")
            event[field] = value
