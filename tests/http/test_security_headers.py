"""What a browser would do with answers: found by walking the mounted routes, also those that are in no document."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.api import worker as worker_api
from app.api.pages import CDN
from app.http.telemetry import MetricsOptions
from tests.support.fixtures import Models, World, on_sqlite
from tests.support.registry import API, Service
from tests.support.routes import body_for, filled_path, mounted_routes

pytestmark = on_sqlite  # headers

PAGES = {"/docs", "/redoc"}
KINDS = {
    "application/json", "application/problem+json", "application/octet-stream", "text/plain", "text/event-stream",
    "application/x-ndjson", "text/markdown",
}  # fmt: skip


@pytest.fixture
def full(begun: Service, models: Models) -> tuple[Service, str]:
    """A registry of its own, because everything is done to it, and a port there."""
    begun.admin.publish(begun.admin.patch("acme", "tone"), models.patch)
    return begun, begun.admin.port("acme/tone", "v1")["id"]


def answers(service: Service, port: str) -> Iterator[tuple[str, str, httpx.Response]]:
    """Of every route, to an admin who sends what the document shows, and to a stranger who sends nothing; reads come first."""
    found = sorted(mounted_routes(service.app), key=lambda route: route[0] not in ("GET", "HEAD"))
    assert len(found) > 60
    for method, path in found:
        body = body_for(service.app, method, path) if path.startswith(API) else None
        url = filled_path(path, port=port, path="config.json" if "ports" in path else "adapter_config.json")
        for token in (service.admin.token, None):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            json: dict[str, Any] = {"json": body} if body is not None and token else {}
            yield method, path, service.client.request(method, url, headers=headers, follow_redirects=False, **json)


def told(answer: httpx.Response, name: object) -> str:
    """The policy of an answer that nobody guesses the type of."""
    assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"], name
    assert "Set-Cookie" not in answer.headers, name  # who asks is told by a header, which no other page's request carries
    policies = answer.headers.get_list("Content-Security-Policy")
    assert len(policies) == 1, name
    return str(policies[0])


def test_every_answer_has_security_headers(full: tuple[Service, str]) -> None:
    """Nothing is guessed at; HTML comes from our two pages alone; all else runs nothing and is shown in no frame."""
    html, read = set[str](), 0
    for method, path, answer in answers(*full):
        name = (method, path, answer.status_code)
        policy = told(answer, name)
        assert "default-src 'none'" in policy, name
        read += answer.status_code < 300
        kind = answer.headers.get("Content-Type", "").partition(";")[0]
        if kind == "text/html":
            html.add(path)
            continue
        assert policy.startswith("sandbox;"), name
        assert not kind or kind in KINDS, (name, kind)
    assert html == PAGES
    assert read > 30, "what was asked for was there"


NOWHERE = ["/nothing/<script>alert(1)</script>", "/api/v1/nothing", "/%00", "/problems/<b>", "/docs/oauth2-redirect"]


@pytest.mark.parametrize("path", NOWHERE)
def test_answer_of_an_unknown_address_has_security_headers(world: World, path: str) -> None:
    """What is said of an address that somebody made up is no page either."""
    answer = world.service.client.get(path)
    assert answer.status_code in (404, 422)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert told(answer, path).startswith("sandbox;")
    assert told(world.service.client.put("/docs"), path).startswith("sandbox;")


def test_unexpected_error_has_security_headers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """That answer comes from outside of everything else."""
    monkeypatch.setattr("app.api.routers.system.tokens.own", lambda *_: 1 / 0)
    answer = world.admin.get("/whoami")
    assert answer.status_code == 500
    assert told(answer, "500").startswith("sandbox;")


class Loads(HTMLParser):
    """What a page loads, and from where."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in ("script", "img", "iframe", "link") and (where := given.get("src") or given.get("href")):
            self.found.append(where)


@pytest.mark.parametrize("path", sorted(PAGES))
def test_documentation_pages_load_from_this_registry_only(world: World, path: str) -> None:
    """They load from where their policy says, and may talk to this registry alone: a token that is typed there stays here."""
    answer = world.service.client.get(path)
    policy = dict(part.strip().partition(" ")[::2] for part in told(answer, path).split(";"))
    assert (policy["default-src"], policy["connect-src"], policy["base-uri"]) == ("'none'", "'self'", "'none'")
    assert policy["frame-ancestors"] == "'none'"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    page = Loads()
    page.feed(answer.text)
    assert page.found
    for where in page.found:
        assert where.startswith((CDN, "https://fastapi.tiangolo.com/")), where
        allowed = policy["img-src" if where.endswith(".png") else "style-src" if where.endswith(".css") else "script-src"]
        assert any(where.startswith(source) for source in allowed.split())


def test_answers_of_a_worker_have_security_headers(world: World) -> None:
    """Its addresses are opened by browsers that were sent there."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.registry = world.service.runtime
    worker_api.mount(app, MetricsOptions())
    client = TestClient(app, raise_server_exceptions=False)
    found = {path for _, path in mounted_routes(app)}
    assert {"/healthz", "/about", "/ports/{port}/files/{path:path}", "/metrics"} <= found
    for path in found:
        answer = client.get(filled_path(path, port=world.port["id"], path="config.json"), params={"expires": 1, "signature": "x"})
        assert told(answer, path).startswith("sandbox;")
        assert answer.headers["Content-Type"] != "text/html"
