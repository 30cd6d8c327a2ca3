"""A running service with a family, a patch and its ports, as stock clients find it: a session fixture, and what it holds."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.service_process import Service, invoke
from tests.support.sparse_models import large_patch, large_release
from tests.support.stock_clients import Clients

FAMILY, PATCH = "hubllama", "hubacme/tone"


@dataclass(frozen=True)
class Shop:
    """base/hubllama with v1 and v2 (which continues it); hubacme/tone, version 1, trained on v1, ported to v2."""

    service: Service
    models: Path
    token: str
    stranger: str

    def clients(self, home: Path, endpoint: str = "") -> Clients:
        return Clients(endpoint or self.service.url, self.token, home)

    def port(self) -> str:
        with self.service.client() as client:
            return str(client.get("/ports", params={"patch": PATCH}).json()["items"][0]["id"])


@pytest.fixture(scope="session")
def shop(service: Service, models: Path) -> Shop:
    """Made once; only to be read."""

    def portllm(*arguments: str | Path) -> str:
        done = invoke(*arguments, **service.variables())
        assert done.exit_code == 0, done.output
        return done.stdout

    portllm("release", "add", FAMILY, "v1", "--from", models / "v1", "--wait")
    portllm("release", "add", FAMILY, "v2", "--from", models / "v2", "--parent", "v1", "--wait")
    portllm("family", "grant", FAMILY, "*")
    portllm("patch", "push", PATCH, models / "patch", "--family", FAMILY, "--trained-on", "v1")
    portllm("port", PATCH, "--to", "v2")
    made = [portllm("token", "create", owner, "--role", "reader", "--json") for owner in ("hubacme", "hubrival")]
    tokens = [json.loads(token)["token"] for token in made]
    return Shop(service, models, *tokens)


@pytest.fixture(scope="session")
def large(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A merged model of one file of 50 MB."""
    root = shop.service.root / "releases"
    large_release(root / "hublarge", 2, content=1)
    patch = large_patch(tmp_path_factory.mktemp("large") / "patch", 2, 4, 1)
    for arguments in (
        ("release", "add", "hublarge", "v1", "--from", str(root / "hublarge"), "--wait"),
        ("family", "grant", "hublarge", "hubacme"),
        ("patch", "push", "hubacme/large", str(patch), "--family", "hublarge", "--trained-on", "v1"),
        ("port", "hubacme/large", "--to", "v1"),
    ):
        done = invoke(*arguments, **shop.service.variables())
        assert done.exit_code == 0, done.output
    return "hubacme/large.merged"


def direct(shop: Shop, repository: str, path: str, **headers: str) -> httpx.Response:
    url = f"{shop.service.url}/{repository}/resolve/v1/{path}"
    return httpx.get(url, headers={"Authorization": f"Bearer {shop.token}", **headers}, timeout=120)


def merged_files(shop: Shop) -> dict[str, str]:
    """sha256 by path, from the API."""
    port = shop.port()
    with shop.service.client(follow_redirects=True) as client:
        listed = [file["path"] for file in client.get(f"/ports/{port}/files").json()["files"]]
        return {path: hashlib.sha256(client.get(f"/ports/{port}/files/{path}").content).hexdigest() for path in listed}
