"""`portllm jobs`, `portllm events`, `portllm retire`, and `portllm pull` by a port's id."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service_process import Service, environment, invoke, until
from tests.support.sparse_models import large_release


@pytest.fixture(scope="module")
def port(service: Service, models: Path) -> str:
    """The id of a port of busy/tone to v1 in float32, which a name alone does not mean."""
    env = service.variables()
    assert invoke("release", "add", "busy", "v1", "--from", models / "v1", "--wait", **env).exit_code == 0
    pushed = invoke("patch", "push", "busy/tone", models / "patch", "--family", "busy", "--trained-on", "v1", **env)
    assert pushed.exit_code == 0, pushed.output
    made = invoke("port", "busy/tone", "--to", "v1", "--dtype", "bfloat16", "--json", **env)
    return str(json.loads(made.stdout)["id"])


def test_jobs_are_listed_shown_and_cancelled(service: Service) -> None:
    """A long ingestion: its progress in bytes, its end, and the reason afterwards."""
    env, huge = service.variables(), large_release(service.root / "releases/slow", 200, shards=200)
    added = json.loads(invoke("release", "add", "slow", "r1", "--from", huge, "--json", **env).stdout)

    def progress() -> str | None:
        shown = invoke("jobs", "show", added["job"], **env)
        return shown.stdout if "Reading" in shown.stdout else None

    assert "is running. Reading" in str(until(progress))
    assert added["job"] in [j["id"] for j in json.loads(invoke("jobs", "ls", "--json", **env).stdout)]
    cancelled = invoke("jobs", "cancel", added["job"], **env)
    assert (cancelled.exit_code, cancelled.stdout) == (0, f"{added['job']} is being cancelled.\n")
    until(lambda: not service.jobs(), 5)
    assert json.loads(invoke("jobs", "show", added["job"], "--json", **env).stdout)["state"] == "cancelled"
    again = invoke("jobs", "cancel", added["job"], **env)
    assert (again.exit_code, "[state.move]" in again.stderr) == (1, True)
    assert "[job.unknown]" in invoke("jobs", "show", "busy:ingest:none", **env).stderr


def test_events_are_listed_and_followed(service: Service, port: str, models: Path) -> None:
    """In order, from a cursor on, with a limit; a follower sees what happens while it watches, a line each."""
    env = service.variables()
    seen = json.loads(invoke("events", "--limit", "100000", "--json", **env).stdout)
    assert [e["id"] for e in seen] == sorted(e["id"] for e in seen)
    mine = next(e for e in seen if e["subject"] == port)
    assert (mine["kind"], mine["data"]["release"]) == ("port.ready", "v1")
    assert json.loads(invoke("events", "--after", str(mine["id"] - 1), "--limit", "1", "--json", **env).stdout) == [mine]
    assert port in invoke("events", "--after", str(mine["id"] - 1), "--limit", "1", **env, COLUMNS="200").stdout
    command = [sys.executable, "-m", "app.cli.main", "events", "--follow", "--json", "--after", str(seen[-1]["id"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(**env)) as follower:
        try:
            assert follower.stdout is not None
            assert invoke("port", "busy/tone", "--to", "v1", "--dtype", "float16", **env).exit_code == 0
            assert json.loads(follower.stdout.readline())["kind"] == "port.ready"
        finally:
            follower.terminate()


def test_pull_by_name_takes_plain_addition_and_other_recipes_by_id(service: Service, port: str, tmp_path: Path) -> None:
    """A name means plain addition: other recipes are refused by name, with their ids, and pulled by id."""
    env = service.variables()
    unclear = invoke("pull", "busy/tone", tmp_path / "out", "--on", "v1", **env)
    assert unclear.exit_code == 2
    assert f"{port} (dtype=bfloat16)" in unclear.stderr
    assert "[client.recipe]" in unclear.stderr
    assert "[client.release]" in invoke("pull", "busy/tone", tmp_path / "out", **env).stderr
    pulled = invoke("pull", port, tmp_path / "out", **env)
    assert pulled.exit_code == 0, pulled.output
    assert "busy/tone on v1" in pulled.stdout
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    assert "[port.unknown]" in invoke("pull", "prt_none", tmp_path / "other", **env).stderr


def test_retire_command_retires_a_port_once(service: Service, port: str, tmp_path: Path) -> None:
    """A retired port is not handed out any more, and cannot be retired twice."""
    env = service.variables()
    fresh = json.loads(invoke("port", "busy/tone", "--to", "v1", "--json", **env).stdout)["id"]
    assert invoke("retire", fresh, **env).stdout == f"{fresh} is retired.\n"
    assert "[port.not_ready]" in invoke("pull", fresh, tmp_path / "out", **env).stderr
    assert "[state.move]" in invoke("retire", fresh, **env).stderr


def test_audit_command_writes_lines_of_json(service: Service, port: str, tmp_path: Path) -> None:
    """To standard output, or added to a file; where that cannot be written, the sentence is JSON too if asked for."""
    env, out = service.variables(), tmp_path / "trail.jsonl"
    shown = invoke("audit", "--json", **env)
    assert shown.exit_code == 0, shown.output
    lines = [json.loads(line) for line in shown.stdout.splitlines()]
    assert {"version.published", "port.ready"} <= {line["kind"] for line in lines}
    last = lines[-2]["id"]
    for _ in range(2):
        assert invoke("audit", "--out", out, "--after", str(last), **env).exit_code == 0
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()][:1] == [lines[-1]["id"]]
    assert len(out.read_text().splitlines()) >= 2
    failed = invoke("audit", "--json", "--out", tmp_path / "none" / "trail.jsonl", **env)
    assert failed.exit_code == 1
    assert "client.file" in failed.output
