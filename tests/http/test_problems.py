"""Errors on the wire: one form for all of them, with a request id, whoever refuses."""

import json
import logging
import string
from collections.abc import Callable, Iterator

import httpx
import pytest

from app.core.errors import CATALOGUE as CORE
from app.core.errors import CoreError
from app.core.findings import MEANINGS
from app.domain.errors import CATALOGUE, DomainError
from app.http.problems import STATUS, codes
from tests.support.fixtures import World, on_sqlite
from tests.support.registry import Service, refused, unique

pytestmark = on_sqlite  # sentences


@pytest.fixture(scope="module")
def broken(registries: Callable[..., Service]) -> Iterator[Service]:
    """A registry with routes that fail in ways of their own."""
    service = registries(max_body_bytes=10_000)

    def boom(kind: str) -> None:
        raise {"plain": RuntimeError("secret detail"), "os": OSError(5, "secret detail"), "full": OSError(28, "No space")}[kind]

    service.app.add_api_route("/boom/{kind}", boom, methods=["GET"])
    service.app.add_api_route("/quota", _quota, methods=["GET"])
    with service.running():
        yield service


def _quota() -> None:
    raise OSError(122, "Disk quota exceeded")


@pytest.mark.parametrize("kind", ["plain", "os"])
def test_unexpected_error_is_500_with_its_request_id(broken: Service, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """A 500 tells its request id, which the log has with the reason, and nothing else."""
    with caplog.at_level(logging.ERROR, logger="portllm.api"):
        answer = broken.client.get(f"/boom/{kind}", headers={"X-Request-Id": "mine-1"})
    problem = refused(answer, 500, "server.error")
    assert answer.headers.get_list("X-Request-Id") == ["mine-1"]
    assert problem["data"] == {"request_id": "mine-1"}
    assert "mine-1" in problem["detail"]
    assert "secret" not in answer.text
    assert "mine-1" in caplog.text
    assert "secret detail" in caplog.text


@pytest.mark.parametrize("path", ["/boom/full", "/quota"])
def test_full_disk_is_507_everywhere(broken: Service, path: str) -> None:
    """No space and no quota are told apart from errors of ours."""
    refused(broken.client.get(path), 507, "server.storage_full")


def test_unknown_route_and_method_are_problems(world: World) -> None:
    """404 and 405 of the framework speak the same language."""
    problem = refused(world.admin.get("/nope"), 404, "request.route")
    assert problem["data"] == {"path": "/api/v1/nope"}
    refused(world.service.client.get("/"), 404, "request.route")
    refused(world.service.client.get("/problems/no.such"), 404, "request.route")
    wrong = world.admin("DELETE", "/families")
    problem = refused(wrong, 405, "request.method")
    assert problem["data"] == {"method": "DELETE", "path": "/api/v1/families"}
    assert wrong.headers["Allow"]
    refused(world.admin("PUT", "/families/llama", json={}), 405, "request.method")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"name": "x", "descripton": "misspelt"}', "descripton"), (b'{"name": 5}', "name"), (b"{}", "name"), (b"[]", "body"),
        (b"{", "body"), (b"", "body"), (b'{"name": "' + b"x" * 90 + b'"}', "name"), (b'{"name": null}', "name"),
        (b'{"name": "\\ud800"}', "name"),
    ],
)  # fmt: skip
def test_invalid_body_is_refused_with_the_place(world: World, content: bytes, says: str) -> None:
    """Unknown fields, wrong types and broken JSON are refused with the place."""
    answer = world.admin("POST", "/families", content=content, headers={"Content-Type": "application/json"})
    assert says in refused(answer, 422, "request.invalid")["detail"]


@pytest.mark.parametrize("content", [b'{"name": "\xff"}', b"[" * 60_000, b'{"name": 1' + b"0" * 5000 + b"}"])
def test_body_that_breaks_the_parser_is_refused(world: World, content: bytes) -> None:
    """Not UTF-8, nested without end, a number without end: refused in the same form, with the status that is documented."""
    answer = world.admin("POST", "/families", content=content, headers={"Content-Type": "application/json"})
    refused(answer, 422, "request.invalid")
    assert world.service.client.get("/problems/request.invalid").json()["status"] == 422


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "-1"}, {"limit": "x"}, {"cursor": "x" * 401}])
def test_invalid_query_is_refused(world: World, query: dict[str, str]) -> None:
    """Queries are checked like bodies."""
    refused(world.admin.get("/families", **query), 422, "request.invalid")


def test_body_beyond_its_bound_is_413(broken: Service) -> None:
    """A JSON body has a bound, with and without a length that was announced; one byte less is read."""
    fill = 10_000 - len(json.dumps({"name": "x", "description": ""}))
    body = json.dumps({"name": "x", "description": "d" * (fill + 1)}).encode()
    problem = refused(broken.admin("POST", "/families", content=body), 413, "request.too_large")
    assert problem["data"]["limit"] == 10_000
    refused(
        broken.admin("POST", "/families", content=(body[i : i + 999] for i in range(0, len(body), 999))), 413, "request.too_large"
    )
    headers = {"Content-Type": "application/json"}
    within = broken.admin("POST", "/families", content=body.replace(b'd"', b'"'), headers=headers)
    assert "description" in refused(within, 422, "request.invalid")["detail"]


def test_every_answer_has_a_request_id(world: World) -> None:
    """Every answer has an id: the client's, where it is one, or a new one."""
    client = world.service.client
    assert client.get("/healthz", headers={"X-Request-Id": "abc-1.2_3"}).headers["X-Request-Id"] == "abc-1.2_3"
    made = [client.get("/healthz", headers=headers).headers["X-Request-Id"] for headers in ({}, {}, {"X-Request-Id": "a b"})]
    made.append(client.get("/healthz", headers={"X-Request-Id": "x" * 65}).headers["X-Request-Id"])
    assert len(set(made)) == 4
    assert all(len(ident) == 16 and set(ident) <= set("0123456789abcdef") for ident in made)


def test_every_code_has_a_documentation_page(world: World) -> None:
    """/problems/{code} answers for every code there is, without a token, with the status that is sent."""
    listed = world.service.client.get("/problems").json()
    assert listed == codes() == sorted({*CATALOGUE, *CORE, *MEANINGS})
    for code in listed:
        found = world.service.client.get(f"/problems/{code}")
        assert found.status_code == 200
        entry = CATALOGUE.get(code) or CORE.get(code) or MEANINGS[code]
        status = found.json().pop("status")
        assert found.json() == {
            "code": code, "title": entry.title, "detail": entry.detail, "remedy": entry.remedy, "status": status,
        }  # fmt: skip
        assert status is None if code in MEANINGS else 400 <= status < 600
    exact = {
        "request.head": 431,
        "request.method": 405,
        "server.error": 500,
        "request.route": 404,
        "checkpoint.changed": 409,
        "port.shape": 422,
    }
    for code, status in exact.items():
        assert world.service.client.get(f"/problems/{code}").json()["status"] == status
    for code, entry in CATALOGUE.items():
        if code not in exact:
            assert world.service.client.get(f"/problems/{code}").json()["status"] == STATUS[entry.kind]


@pytest.mark.parametrize("error", [DomainError("release.unknown", family="f", release="r"), CoreError("checkpoint.no_weights")])
def test_error_of_a_failed_job_survives_storage(error: DomainError | CoreError) -> None:
    """What a failed job keeps of an error is the same four texts."""
    kept = error.to_problem()
    assert set(kept) == {"code", "title", "detail", "remedy"}
    assert all(kept.values())
    assert kept["remedy"] in str(error)


def test_holes_of_every_sentence_are_plain_names() -> None:
    """No entry's remedy or detail can fail to be filled: every hole is a plain name."""
    for code, entry in CATALOGUE.items():
        for text in (entry.detail, entry.remedy):
            for _, hole, _, _ in string.Formatter().parse(text):
                assert hole is None or hole.isidentifier(), code
        assert entry.title[0].isupper()
        assert entry.remedy.endswith("."), code


def test_json_under_another_content_type_is_no_500(world: World) -> None:
    """JSON under another label is refused or read, never an error of ours."""
    content = json.dumps({"name": unique("family")}).encode()
    for label in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer: httpx.Response = world.admin("POST", "/families", content=content, headers={"Content-Type": label})
        assert answer.status_code in (201, 409, 415, 422), label
