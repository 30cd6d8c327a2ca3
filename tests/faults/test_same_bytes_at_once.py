"""Several clients that publish the same bytes at the same time make one version."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.service_process import Service, environment, invoke
from tests.support.sparse_models import large_patch, large_release

CLIENTS = 3


def test_the_same_bytes_at_once_are_one_version(service: Service, tmp_path: Path) -> None:
    """Three processes of `portllm patch push`, started together: all end well and name the same version."""
    release = large_release(service.root / "releases/race", 1)
    added = invoke("release", "add", "race", "v1", "--from", release, "--wait", **service.variables())
    assert added.exit_code == 0, added.output
    patch = large_patch(tmp_path / "patch", 1, 1024, 5)
    arguments = ["patch", "push", "race/patch", str(patch), "--family", "race", "--trained-on", "v1", "--json"]
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", *arguments], env=environment(**service.variables()), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(CLIENTS)
    ]  # fmt: skip
    told = [client.communicate(timeout=120) for client in clients]
    assert [client.returncode for client in clients] == [0] * CLIENTS, told
    rows = [json.loads(out) for out, _ in told]
    assert {(row["id"], row["number"], row["state"]) for row in rows} == {(rows[0]["id"], 1, "published")}
    with service.client() as client:
        versions = client.get("/patches/race/patch/versions").json()["items"]
        events = client.get("/events", params={"limit": 500}).json()["items"]
    assert [(v["number"], v["id"]) for v in versions] == [(1, rows[0]["id"])]
    assert len([e for e in events if e["kind"] == "version.published" and e["subject"] == "race/patch@1"]) == 1
    left = [path for path in (service.data / "blobs/staging").rglob("*") if path.is_file()]
    assert not left, "the other uploads are discarded with all that was staged for them"
