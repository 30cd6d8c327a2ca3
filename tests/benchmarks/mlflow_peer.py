"""MLflow's model registry as a peer: its own release in a virtual environment of its own, its own server, its own database.

MLFLOW_VENV names an environment that has it; otherwise one is made below the benchmark's directory, once.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from sqlalchemy import NullPool, create_engine, make_url, text

from tests.benchmarks.api_rows import ALIAS, DESCRIPTION, Filled
from tests.benchmarks.http_load import Request

VERSION = "3.17.2"
WORKERS = 2
START_SECONDS = 240
API = "/api/2.0/mlflow/registered-models"


@dataclass(frozen=True, slots=True)
class Peer:
    """A server that runs: where, and the process above all its processes."""

    url: str
    pid: int


def environment(work: Path) -> Path:
    """A virtual environment with MLflow and the driver that the service uses; made on first use."""
    if given := os.environ.get("MLFLOW_VENV"):
        return Path(given)
    place = work / f"mlflow-{VERSION}"
    if not (place / "complete").exists():
        print(f"installing MLflow {VERSION} into {place} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        wanted = [f"mlflow=={VERSION}", "psycopg[binary]"]
        subprocess.run([place / "bin/python", "-m", "pip", "install", "--quiet", *wanted], check=True)
        (place / "complete").touch()
    return place


@contextmanager
def server(venv: Path, url: str, work: Path, port: int) -> Iterator[Peer]:
    """`mlflow server` with two workers on a database, which it migrates; without its runner of jobs, which nobody asks here."""
    store = make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    command = [
        venv / "bin/mlflow", "server", "--backend-store-uri", store, "--artifacts-destination", work / "artifacts",
        "--host", "127.0.0.1", "--port", str(port), "--workers", str(WORKERS),
    ]  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (work / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=kept | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, stdout=log, stderr=log, cwd=work
        )  # fmt: skip
    try:
        peer = Peer(f"http://127.0.0.1:{port}", process.pid)
        _wait(peer, process, work / "mlflow.log")
        yield peer
    finally:
        process.terminate()
        process.wait(30)


def fill(url: str, patches: list[Filled]) -> None:
    """A registered model with one version and an alias for each patch, written as its own store writes them."""
    engine = create_engine(url, poolclass=NullPool)
    names = [f"{patch.owner}.{patch.name}" for patch in patches]
    known = {"names": names, "about": DESCRIPTION, "alias": ALIAS, "ms": int(1000 * time.time())}
    listed = "FROM unnest(CAST(:names AS text[])) WITH ORDINALITY AS given (name, number)"
    with engine.begin() as connection:
        for statement in (
            f"INSERT INTO registered_models (name, creation_time, last_updated_time, description, workspace) "
            f"SELECT name, :ms + number, :ms + number, :about, 'default' {listed}",
            f"INSERT INTO model_versions (name, version, creation_time, last_updated_time, description, current_stage, source, "
            f"status, workspace) SELECT name, 1, :ms, :ms, '', 'None', 's3://models/' || name, 'READY', 'default' {listed}",
            f"INSERT INTO registered_model_aliases (alias, version, name, workspace) SELECT :alias, 1, name, 'default' {listed}",
        ):
            connection.execute(text(statement), known)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


def get(patch: Filled) -> Request:
    return Request(f"{API}/get?name={patch.owner}.{patch.name}")


def by_alias(patch: Filled) -> Request:
    return Request(f"{API}/alias?name={patch.owner}.{patch.name}&alias={ALIAS}")


def search(size: int, after: int = 0) -> Request:
    """A page of a list; its page tokens count rows."""
    token = base64.b64encode(json.dumps({"offset": after}).encode()).decode()
    return Request(f"{API}/search?max_results={size}" + (f"&page_token={token}" if after else ""))


def _wait(peer: Peer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(f"{peer.url}/health").is_success and httpx.get(f"{peer.url}{search(1).path}").is_success:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"mlflow server did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.5)
