"""PostgreSQL, S3, a service and two workers, of which one is killed at random moments; then the database itself.

After every round: the work is done, the bytes are right, nothing is half-visible, and the check of database against bytes is
clean.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.core.local import merge
from tests.faults.rounds import ROUNDS, moments
from tests.live.models import large_patch, large_release
from tests.live.service import environment, invoke, until
from tests.support.merging import digests
from tests.support.s3 import S3Server
from tests.support.workers import Cluster, Fleet, Worker


@dataclass
class Site:
    """A whole installation."""

    fleet: Fleet
    cluster: Cluster
    s3: S3Server
    bucket: str
    workers: list[Worker]
    model: Path

    def run(self, *arguments: str | Path) -> Any:
        ended = invoke(*arguments, "--json", **self.fleet.variables())
        assert ended.exit_code == 0, (arguments, ended.output)
        return json.loads(ended.stdout)

    def hire(self) -> None:
        """A new worker in place of those that are gone."""
        self.workers = [worker for worker in self.workers if worker.process.poll() is None]
        while len(self.workers) < 2:
            name = f"worker-{random.getrandbits(32):08x}"
            self.workers.append(Worker(self.fleet, name, **self.s3.environment(), **_kept_in(self.bucket)).ready())

    def check(self) -> None:
        """`portllm fsck` finds nothing wrong."""
        known = {**self.fleet.settings, **self.s3.environment(), **_kept_in(self.bucket)}
        command = [sys.executable, "-m", "app.cli.main", "fsck", "--data", str(self.fleet.data), "--json"]
        ended = subprocess.run(command, env=environment(**known), capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def _kept_in(bucket: str) -> dict[str, str]:
    """Where bytes are kept, and what else may be used of the bucket."""
    allowed = f'["s3://{bucket}/models", "s3://{bucket}/exports"]'
    return {"PORTLLM_BLOBS": f"s3://{bucket}/registry", "PORTLLM_ALLOW_S3": allowed}


@pytest.fixture(scope="module")
def site(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Family big with v1 (50 MB) by reference to S3, big/tone on it, ported; its local merge in `model`."""
    root, bucket = tmp_path_factory.mktemp("site"), s3.bucket()
    large_release(root / "v1", 2, content=1)
    large_patch(root / "patch", 2, 16, seed=3)
    s3.upload(root / "v1", bucket, "models/v1")
    merge(root / "v1", root / "patch", root / "merged")
    with tempfile.TemporaryDirectory(prefix="pg") as place:
        cluster = Cluster(Path(place) / "data")
        fleet = Fleet(root, cluster.database(), **s3.environment(), **_kept_in(bucket))
        found = Site(fleet, cluster, s3, bucket, [], root / "merged")
        fleet.start()
        try:
            found.hire()
            found.run("release", "add", "big", "v1", "--from", f"s3://{bucket}/models/v1", "--wait")
            found.run("patch", "push", "big/tone", root / "patch", "--family", "big", "--trained-on", "v1")
            found.run("port", "big/tone", "--to", "v1")
            yield found
        finally:
            for worker in found.workers:
                worker.kill()
            fleet.kill()
            cluster.stop()


def _materialise(site: Site, name: str) -> dict[str, Any]:
    with site.fleet.client() as client:
        port = client.get("/ports", params={"patch": "big/tone"}).raise_for_status().json()["items"][0]["id"]
        body = {"to": f"s3://{site.bucket}/exports/{name}"}
        return dict(client.post(f"/ports/{port}/materialise", json=body).raise_for_status().json())


def _done(site: Site, ident: str) -> dict[str, Any]:
    def done() -> dict[str, Any] | None:
        """the materialisation to be done"""
        with site.fleet.client() as client:
            row = client.get(f"/materialisations/{ident}")
        if row.status_code == 503:
            return None
        found = dict(row.raise_for_status().json())
        assert found["state"] not in ("failed", "cancelled"), found
        return found if found["state"] == "done" else None

    return until(done, 90) or {}


def _check_written(site: Site, name: str) -> None:
    listed = site.s3.objects(site.bucket, f"exports/{name}/")
    expected = {p.name: p.stat().st_size for p in site.model.iterdir()}
    assert {key.rpartition("/")[2]: size for key, size in listed.items()} == expected
    with tempfile.TemporaryDirectory() as place:
        for key in listed:
            site.s3.client().download_file(site.bucket, key, str(Path(place) / key.rpartition("/")[2]))
        assert digests(Path(place)) == digests(site.model)
    until(lambda: not [key for key in site.s3.multiparts(site.bucket) if key.startswith("exports/")], 20)


@pytest.mark.parametrize("victim", ["worker", "service"])
def test_a_materialisation_survives_kill_9(site: Site, victim: str) -> None:
    """Of the worker that writes, or of the service that was asked."""
    began = time.monotonic()
    _done(site, _materialise(site, f"undisturbed-{victim}")["id"])
    seconds = time.monotonic() - began
    for number, moment in enumerate(moments(seconds, seed=len(victim)), 1):
        name = f"{victim}{number}"
        row = _materialise(site, name)
        time.sleep(moment)  # the moment is what is under test
        if victim == "worker":
            busy = [worker for worker in site.workers if worker.jobs()] or site.workers
            busy[0].kill()
        else:
            site.fleet.kill()
            site.fleet.start()
        done = _done(site, row["id"])
        _check_written(site, name)
        site.hire()
        assert sum(f["size"] for f in done["result"]["files"]) == sum(p.stat().st_size for p in site.model.iterdir())
        print(f"round {number}/{ROUNDS}: {victim} killed after {moment:.2f} of {seconds:.2f} s")
    site.check()


def test_the_database_ends_at_once_under_load(site: Site) -> None:
    """Stopped in immediate mode while jobs run and clients ask: clients see 503 and no 500, and no job is lost."""
    for number in range(ROUNDS):
        row, statuses = _materialise(site, f"database{number}"), set[int]()
        site.cluster.crash()
        with site.fleet.client() as client:
            for _ in range(5):
                statuses.add(client.get("/families").status_code)
            site.cluster.start()
            until(lambda c=client: c.get("/families").status_code == 200, 60)
        assert statuses <= {200, 503}, statuses
        _done(site, row["id"])
        _check_written(site, f"database{number}")
    site.check()
