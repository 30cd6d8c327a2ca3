"""A running service with a family, a patch and its ports, as stock clients find it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hub.clients import Clients
from tests.live.fixtures import models, service
from tests.live.service import Service, invoke

__all__ = ["models", "service", "shop"]

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
