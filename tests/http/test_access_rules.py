"""Every mounted route against its rule: no route without one, and each refuses whoever it should, and nobody else."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api import worker
from app.api.access_rules import RULES
from app.api.app import mount
from app.domain.principal import ROLES
from app.http.access_rules import Rule
from app.http.telemetry import MetricsOptions
from app.hub.access_rules import RULES as HUB
from tests.support.fake_hub import running_hub
from tests.support.fixtures import Models
from tests.support.registry import API, Caller, Service, refused
from tests.support.routes import body_for, filled_path, mounted_routes
from tests.support.upstreams import known

# Of each scope: the least role that has it, and the role just below, which has not.
LEAST = {"read": "reader", "publish": "publisher", "operate": "operator", "admin": "admin"}
BELOW = {"publish": "reader", "operate": "publisher", "admin": "operator"}


@dataclass
class Place:
    """A registry with one of everything of acme's, and what fills the holes of paths with it."""

    service: Service
    callers: dict[str, Caller]
    rival: Caller
    expired: Caller
    holes: dict[str, str]

    def call(self, caller: Caller, method: str, path: str) -> Any:
        """A request that is right in everything but, maybe, who makes it."""
        body = body_for(self.service.app, method, path)
        for name, value in (("family", "llama"), ("owner", "acme"), ("patch", "acme/tone"), ("release", "v1")):
            if body and name in body:
                body[name] = value
        json = {} if body is None else {"json": body}
        return caller(method, filled_path(path, **self.holes), whole=True, headers={"Upload-Offset": "0"}, **json)


@pytest.fixture(scope="module")
def place(registries: Callable[..., Service], models: Models) -> Iterator[Place]:
    with registries(allow_s3=["s3://models/exports"]).running() as service, running_hub() as hub:
        admin = service.admin
        admin.family("llama")
        service.release("llama", "v1", models.v1)
        callers = {role: service.caller("acme", *scopes) for role, scopes in ROLES.items()}
        acme = callers["publisher"]
        acme.publish(acme.patch("acme", "tone"), models.patch)
        draft = acme.draft(acme.patch("acme", "draft"), models.patch)
        port = acme.port("acme/tone", "v1")["id"]
        job = acme.post(f"/ports/{port}/digest").json()["job"]
        materialised = acme.post(f"/ports/{port}/materialise", {"to": "s3://models/exports/tone"}).json()["id"]
        known(service, hub, publishers=True)
        batch = acme.post("/imports", {"sources": ["own:org/tone"]}).json()["batch"]
        token = service.caller("acme", "read").get("/whoami").json()["token"]
        expired = service.caller("acme")
        service.execute("UPDATE tokens SET expires_at = created_at WHERE id = :id", id=expired.get("/whoami").json()["token"])
        holes = {
            "port": port,
            "upload": draft["id"],
            "path": "config.json",
            "job": job,
            "token": token,
            "materialisation": materialised,
            "ident": acme.get("/imports", batch=batch).json()["items"][0]["id"],
            "upstream": "own",
        }
        yield Place(service, callers, service.caller("rival", *ROLES["operator"]), expired, holes)


def ruled(place: Place) -> list[tuple[str, str, Rule]]:
    """(method, path, rule) of every route of a surface that asks for a token."""
    every = {f"{name.replace(' ', ' ' + API, 1)}": rule for name, rule in RULES.items()} | HUB
    found = [(method, path, every.get(f"{method} {path}")) for method, path in mounted_routes(place.service.app)]
    return [(method, path, rule) for method, path, rule in found if rule and rule.scope not in ("none", "signed")]


def test_every_route_has_a_rule(place: Place) -> None:
    """And every rule a route."""
    every = set(mounted_routes(place.service.app))
    assert {f"{m} {p.removeprefix(API)}" for m, p in every if p.startswith(API)} == set(RULES)
    assert set(HUB) <= {f"{m} {p}" for m, p in every}


def test_what_the_walk_asks_for_is_there(place: Place) -> None:
    for noun in ("materialisation", "job", "port", "import"):
        found = place.callers["reader"].get(f"/{noun}s/{place.holes['ident' if noun == 'import' else noun]}")
        assert found.status_code == 200, (noun, found.text)
    assert place.callers["publisher"].get(f"/uploads/{place.holes['upload']}").status_code == 200
    assert place.service.admin.get("/upstreams/own").status_code == 200


def test_a_route_without_a_rule_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever adds a route and forgets the rule finds out before anybody can call it."""
    monkeypatch.delitem(RULES, "GET /families")
    with pytest.raises(RuntimeError, match="GET /api/v1/families has no rule"):
        mount(FastAPI())


def test_what_is_open(place: Place) -> None:
    """Exactly the way to a token is open: without one, with one that has expired, and with one of somebody's."""
    is_open = {name for name, rule in RULES.items() if rule.scope == "none"}
    assert is_open == {"GET /oidc", "POST /tokens/exchange"}
    assert all(RULES[name].whose == "anybody" for name in is_open)
    stranger = Caller(place.service.client, None)
    for name, caller in itertools.product(sorted(is_open), (stranger, place.expired, place.callers["admin"])):
        method, path = name.split(" ")
        answer = place.call(caller, method, API + path)
        assert answer.status_code == 200 or answer.json()["code"] == "oidc.off", (name, answer.text)


def test_an_open_route_needs_a_rule_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a rule that says so an open route: neither can be forgotten."""
    with monkeypatch.context() as patched:
        patched.setitem(RULES, "POST /tokens/exchange", RULES["GET /whoami"])
        with pytest.raises(RuntimeError, match="/api/v1/tokens/exchange asks for no token"):
            mount(FastAPI())
    monkeypatch.setitem(RULES, "GET /audit", RULES["GET /oidc"])
    with pytest.raises(RuntimeError, match="/api/v1/audit asks for a token, and its rule says that it is open"):
        mount(FastAPI())


def test_expired(place: Place) -> None:
    for method, path, _ in ruled(place):
        answer = place.call(place.expired, method, path)
        assert answer.status_code == 401, (method, path)
        assert method == "HEAD" or answer.json()["code"] == "token.expired"


def test_too_small_a_role(place: Place) -> None:
    """The role just below is refused, with the scope that it lacks, also where what it names is not there."""
    checked = 0
    for method, path, rule in ruled(place):
        if rule.scope == "read":
            continue
        checked += 1
        answer = place.call(place.callers[BELOW[rule.scope]], method, path)
        assert answer.status_code == 403, (method, path, answer.text)
        if method != "HEAD":
            assert answer.json()["data"]["scope"] == rule.scope, (method, path)
    assert checked > 20


def test_another_owners_operator(place: Place) -> None:
    """What belongs to another is not there; what belongs to the installation is refused."""
    for method, path, rule in ruled(place):
        if rule.whose in ("owner", "holder", "installation"):
            answer = place.call(place.rival, method, path)
            assert answer.status_code == (403 if rule.whose == "installation" else 404), (method, path, answer.text)


def test_the_least_role_is_enough(place: Place) -> None:
    """Whoever has the scope is let in; what the request then meets is another matter."""
    for method, path, rule in ruled(place):
        answer = place.call(place.callers[LEAST[rule.scope]], method, path)
        code = "" if method == "HEAD" or answer.status_code < 400 else answer.json()["code"]
        assert answer.status_code not in (401, 500), (method, path, answer.text)
        assert code not in ("token.scope", "token.missing", "token.expired"), (method, path, answer.text)
        assert code not in ("patch.unknown", "port.unknown"), (method, path)


def test_a_workers_routes(place: Place) -> None:
    """Health is everybody's; metrics and what it is are for this machine and the token for metrics; bytes want a signature."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.registry = place.service.runtime
    worker.mount(app, MetricsOptions("watch-me"))
    client = TestClient(app, raise_server_exceptions=False, client=("192.0.2.7", 1))
    watched, signed = {"/about", "/metrics"}, {"/ports/{port}/files/{path:path}"}
    assert {path for _, path in mounted_routes(app)} == {"/healthz", "/readyz"} | watched | signed
    for path in watched:
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": f"Bearer {place.service.admin.token}"}):
            refused(client.get(path, headers=headers), 401, "token.missing")
    assert client.get("/metrics", headers={"Authorization": "Bearer watch-me"}).status_code == 200
    path = filled_path(*signed, **place.holes)
    refused(client.get(path, headers={"Authorization": f"Bearer {place.service.admin.token}"}), 422, "request.invalid")
