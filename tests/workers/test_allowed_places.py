"""A worker allows what the service allows: it takes that over where it was given nothing, and does not start with less."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.service_process import until
from tests.support.sparse_models import large_release
from tests.support.workers import Cluster, Fleet

PLACE, WORKER_ROOTS = "s3://models/releases", "worker.roots"


class Bare(Fleet):
    """Its workers get no `--allow-root`."""

    def roots(self) -> list[str]:
        return []


@pytest.fixture(scope="module")
def bare(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    """A service that allows two directories and a place in S3."""
    root = tmp_path_factory.mktemp("bare")
    for name in ("releases", "cache"):
        (root / name).mkdir()
    service = Bare(root, cluster.database(), root / "releases", root / "cache", PORTLLM_ALLOW_S3=f'["{PLACE}"]')
    service.start()
    yield service
    service.kill()


def test_a_worker_without_roots_takes_over_the_services(bare: Bare) -> None:
    """A release with a link into another allowed directory is read, by its job and by whoever reads it afterwards."""
    directory = large_release(bare.root / "releases" / "linked", 1)
    config = directory / "config.json"
    config.rename(bare.root / "cache" / "blob")
    config.symlink_to(bare.root / "cache" / "blob")
    with bare.client() as client, bare.working(()):
        client.post("/families", json={"name": "linked"}).raise_for_status()
        path = "/families/linked/releases"
        client.post(path, json={"name": "v1", "directory": str(directory)}).raise_for_status()
        release = until(lambda: (row := client.get(f"{path}/v1").json())["state"] != "ingesting" and row)
    assert (release["state"], release["problem"]) == ("ready", None)


@pytest.mark.parametrize(
    ("variables", "setting", "missing"),
    [
        ({"PORTLLM_ALLOW_ROOTS": '["{root}/releases"]'}, "PORTLLM_ALLOW_ROOTS", "{root}/cache"),
        ({"PORTLLM_ALLOW_S3": '["s3://models/releases2", "s3://other"]'}, "PORTLLM_ALLOW_S3", PLACE),
    ],
)
def test_a_worker_with_less_than_the_service_does_not_start(
    bare: Bare, variables: dict[str, str], setting: str, missing: str
) -> None:
    """It says which setting, what is missing, and that the worker is what has to change."""
    filled = {name: value.replace("{root}", str(bare.root)) for name, value in variables.items()}
    with pytest.raises(AssertionError) as refused, bare.working((), **filled):
        pass
    text = str(refused.value)
    assert f"portllm: {setting} of this worker (" in text
    assert f"): {missing.replace('{root}', str(bare.root))}. Start the worker without" in text
    assert text.count(f"[{WORKER_ROOTS}]") == 1


def test_a_worker_says_which_allowed_directory_is_not_there(bare: Bare) -> None:
    """It starts: releases that were copied or lie in S3 can be read all the same."""
    gone, away = bare.root / "cache", bare.root / "away"
    gone.rename(away)
    try:
        with bare.working(()) as (worker,):
            assert f"the allowed directory {gone} is not there on this machine" in worker.errors()
    finally:
        away.rename(gone)


def test_a_running_worker_takes_over_what_a_restarted_service_allows(bare: Bare) -> None:
    """Nobody need restart it."""
    later = bare.root / "later"
    directory = large_release(later / "v1", 1)
    with bare.working(()):
        bare.stop()
        bare.change(PORTLLM_ALLOW_ROOTS=json.dumps([str(later)]))
        bare.start()
        with bare.client() as client:
            client.post("/families", json={"name": "later"}).raise_for_status()
            path = "/families/later/releases"
            until(lambda: str(later) in bare.rows("SELECT value FROM installation WHERE name = 'allowed-places'")[0][0]["roots"])
            until(lambda: worker_allows(client, path, directory))


def worker_allows(client: httpx.Client, path: str, directory: Path) -> bool:
    """Whether a release of that directory becomes ready; registered again where it was rejected."""
    client.post(path, json={"name": "v1", "directory": str(directory)}).raise_for_status()
    release = until(lambda: (row := client.get(f"{path}/v1").json())["state"] != "ingesting" and row)
    return bool(release["state"] == "ready")


def test_a_worker_may_allow_a_directory_above(bare: Bare, tmp_path: Path) -> None:
    with bare.working(("--allow-root", str(bare.root), "--allow-root", str(tmp_path))):
        pass
