"""docker-compose.yml, run: its commands and its environment start an installation that does the main job.

No container engine is needed: `tests.support.compose` says what stands for network and volumes.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.support.compose import Installation, read
from tests.support.confined import is_possible
from tests.support.paths import ROOT
from tests.support.sparse_models import large_patch, large_release

OURS = ("api", "worker-1", "worker-2")
GIVEN = ("POSTGRES_PASSWORD", "PORTLLM_SECRET_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
METRICS_TOKEN = secrets.token_hex(24)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies in ./models: a release of one layer, the next one with the same weights, and a patch."""
    root = tmp_path_factory.mktemp("models")
    for name in ("v1", "v2"):
        large_release(root / name, 1, content=1)
    large_patch(root / "patch", 1, 4, seed=1)
    return root


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Installation]:
    """`docker compose up --detach --wait` with nothing in .env but what must be there, and a token for metrics."""
    given = {name: secrets.token_hex(24) for name in GIVEN} | {"PORTLLM_METRICS_TOKEN": METRICS_TOKEN}
    services = read(ROOT / "docker-compose.yml", given)
    with Installation(tmp_path_factory.mktemp("compose"), services, {"./models": models}) as started:
        started.up(*OURS)
        yield started


@pytest.fixture(scope="module")
def token(installation: Installation) -> str:
    """As the file's header says where it is."""
    return (installation.volume("api", "/data") / "admin-token").read_text().strip()


def told(installation: Installation, token: str, *arguments: str) -> Any:
    """What `docker compose run --rm cli ARGUMENTS` says; it must succeed."""
    ended = installation.run("cli", *arguments, "--json", PORTLLM_TOKEN=token)
    assert ended.returncode == 0, (arguments, ended.stdout, ended.stderr)
    return json.loads(ended.stdout)


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


def requests(installation: Installation, name: str) -> list[str]:
    """Lines of a service's log, each an object, that tell of requests."""
    lines = [json.loads(line) for line in installation.output(name).splitlines() if line.startswith("{")]
    return [line["message"] for line in lines if line["name"] == "portllm.access"]


def test_the_password_counts(installation: Installation) -> None:
    """The server that stands for the image's asks for the file's password, so what follows proves that it is passed on."""
    url = installation.environment("api")["PORTLLM_DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("portllm",)
    password = url.partition("portllm:")[2].partition("@")[0]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "another"))


def test_main_job(installation: Installation, token: str, tmp_path: Path) -> None:
    """Two releases from /models, a patch, a port and a pull: jobs and merged bytes are the workers', stored bytes S3's."""
    installed = str(installation.volume("api", "/models"))
    for name, *parent in (("v1",), ("v2", "--parent", "v1")):
        added = told(installation, token, "release", "add", "tiny", name, "--from", f"{installed}/{name}", *parent, "--wait")
        assert added["state"] == "ready"
    pushed = told(
        installation, token, "patch", "push", "acme/tone", f"{installed}/patch", "--family", "tiny", "--trained-on", "v1"
    )
    assert pushed["state"] == "published"
    assert told(installation, token, "port", "acme/tone", "--to", "v2")["state"] == "ready"
    assert told(installation, token, "pull", "acme/tone", "--on", "v2", str(tmp_path / "merged"))["verified"]
    merged = installation.run("cli", "merge", f"{installed}/v2", f"{installed}/patch", str(tmp_path / "here"))
    assert merged.returncode == 0, merged.stderr
    assert digests(tmp_path / "merged") == digests(tmp_path / "here")

    reads = [line for name in ("worker-1", "worker-2") for line in requests(installation, name)]
    assert any(line.startswith("GET /ports/{port}/files/{path:path} 200 port=") for line in reads), reads
    store = installation.volume("api", "/data") / "blobs"
    assert not store.exists()


def test_metrics_are_scraped_with_their_token_from_any_address(installation: Installation) -> None:
    """Of the service and of both workers; without the token nobody is answered, also not on the same machine."""
    bearer = {"Authorization": f"Bearer {METRICS_TOKEN}"}
    for name, port in (("api", 8000), ("worker-1", 8100), ("worker-2", 8100)):
        url = f"http://{installation.address(name, port)}/metrics"
        assert httpx.get(url).status_code == 401
        assert "portllm_up" in httpx.get(url, headers=bearer).raise_for_status().text


def test_both_workers_are_there(installation: Installation, token: str) -> None:
    """Each under the name that the file gives it, and the service sends clients to them."""
    workers = told(installation, token, "workers")
    assert {worker["url"] for worker in workers if worker["alive"]} == {
        f"http://{installation.address(name, 8100)}" for name in ("worker-1", "worker-2")
    }


def test_only_volumes_are_written(installation: Installation) -> None:
    """The containers' own file systems are read-only; no privilege is left or can be had."""
    for name in (*OURS, "migrate"):
        assert list(installation.home(name).iterdir()) == []
    if not is_possible():
        pytest.skip(
            "this machine lets nobody make a file system read-only for one process: what the main job wrote was not held back"
        )
    for name in OURS:
        process = Path("/proc") / str(installation.processes[name].pid)
        mounted = dict(line.split()[1:4:2] for line in (process / "mounts").read_text().splitlines())
        volume = str(installation.volume(name, "/data"))
        assert [mounted[point].split(",")[0] for point in ("/", volume)] == ["ro", "rw"]
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        assert [int(status[each], 16) for each in ("CapBnd", "CapPrm", "CapEff")] == [0, 0, 0]
        assert status["NoNewPrivs"] == "1"


def test_health_and_end(installation: Installation) -> None:
    """All are healthy; SIGTERM ends each with code 0 within its time, and then none is healthy. Last, because it ends them."""
    for name in OURS:
        assert installation.is_healthy(name), installation.output(name)
    ended = installation.down(*OURS)
    assert {name: code for name, (code, _) in ended.items()} == dict.fromkeys(OURS, 0), ended
    assert not any(installation.is_healthy(name) for name in OURS)
