"""The documentation: every operation described, every body with an example that the registry accepts."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from app.api.schemas.base import Out
from app.http import problems
from tests.support.fixtures import World, on_sqlite
from tests.support.routes import DOORS, example

pytestmark = on_sqlite  # the document


@pytest.fixture(scope="session")
def schema(world: World) -> dict[str, Any]:
    """The document that /openapi.json serves."""
    served = world.service.client.get("/openapi.json")
    assert served.status_code == 200
    return dict(served.json())


def operations(schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """("GET /path", operation) of each."""
    return [(f"{method.upper()} {path}", op) for path, methods in schema["paths"].items() for method, op in methods.items()]


def test_every_operation_is_described(schema: dict[str, Any]) -> None:
    """Summary, description, a tag, an id of its own, and the language of errors."""
    found = operations(schema)
    assert len(found) > 40
    for name, operation in found:
        assert operation["summary"].strip(), name
        assert operation["description"].strip(), name
        assert len(operation["tags"]) == 1, name
        for status in ("4XX", "5XX") if not name.startswith("HEAD ") else ():
            content = operation["responses"][status]["content"]
            assert content["application/problem+json"]["schema"]["$ref"].endswith("/ProblemOut"), name
        assert "422" not in operation["responses"], f"{name}: FastAPI's own form of errors is never answered"
        for parameter in operation.get("parameters", []):
            assert parameter["schema"], name
    assert len({operation["operationId"] for _, operation in found}) == len(found)


def test_everything_but_health_documentation_and_doors_wants_a_token(schema: dict[str, Any]) -> None:
    """The document says where a token is needed, as the application does."""
    for name, operation in operations(schema):
        assert bool(operation.get("security")) == ("/api/v1/" in name and name.split(" ")[1] not in DOORS), name


def test_every_field_of_every_body_has_an_example(schema: dict[str, Any]) -> None:
    """Bodies and answers can be shown whole, without an invented "string"."""
    for name, model in schema["components"]["schemas"].items():
        assert "properties" in model, name
        assert model.get("description") or name.startswith("Listing_"), name
        for field, part in model["properties"].items():
            assert _shows(part), f"{name}.{field} has no example"


def _shows(part: dict[str, Any]) -> bool:
    if any(key in part for key in ("examples", "default", "$ref")):
        return True
    if "anyOf" in part:
        return any(_shows(alternative) for alternative in part["anyOf"])
    return part.get("type") == "array" and _shows(part["items"])


def test_examples_of_requests_are_accepted(world: World, schema: dict[str, Any]) -> None:
    """What the documentation shows can be sent: no example breaks the rules of its own body."""
    checked = 0
    for name, operation in operations(schema):
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            continue
        checked += 1
        method, path = name.split(" ")
        # An owner of its own: what is set for it (a quota, for one) is nobody's.
        names = {"owner": "someone"} | dict.fromkeys(("patch", "family", "release", "upstream"), "nope")
        names |= {"port": "prt_nope", "upload": "ver_nope", "token": "tok_nope"}
        url = path.format(alias="a", number=1, **names)
        body = example(world.service.app, content["application/json"]["schema"])
        answer = world.admin(method, url.removeprefix("/api/v1"), json=body)
        assert answer.status_code != 422, (name, answer.text)
    assert checked >= 11


def test_examples_of_answers_fit_their_models(world: World, schema: dict[str, Any]) -> None:
    """Each answer's example is one that the model itself would produce."""
    documented = schema["components"]["schemas"]
    models = [model for model in _subclasses(Out) if model.__name__ in documented]
    assert len(models) > 15
    for model in models:
        shown = example(world.service.app, documented[model.__name__])
        assert set(model.model_validate(shown).model_dump()) == set(shown), model


def _subclasses(model: type[BaseModel]) -> list[type[BaseModel]]:
    return [found for direct in model.__subclasses__() for found in (direct, *_subclasses(direct))]


def test_uploads_and_downloads_are_binary(schema: dict[str, Any]) -> None:
    """Bytes are described as bytes."""
    send = schema["paths"]["/api/v1/uploads/{upload}/files/{path}"]["patch"]
    assert send["requestBody"]["content"]["application/offset+octet-stream"]["schema"]["format"] == "binary"
    read = schema["paths"]["/api/v1/ports/{port}/files/{path}"]["get"]
    for status in ("200", "206"):
        assert read["responses"][status]["content"] == {"*/*": {}}  # OpenAPI 3.1: bytes of any type have no schema
    assert "304" in read["responses"]


def test_documentation_pages_are_served(world: World) -> None:
    """The pages that people read are served, and name the document."""
    for path in ("/docs", "/redoc"):
        page = world.service.client.get(path)
        assert page.status_code == 200
        assert "/openapi.json" in page.text


def test_problem_out_is_what_is_answered(world: World, schema: dict[str, Any]) -> None:
    """The documented form of an error has the fields of a real one."""
    answer = world.admin.get("/families/nope").json()
    assert set(schema["components"]["schemas"]["ProblemOut"]["properties"]) == set(answer)
    shown = example(world.service.app, {"$ref": "#/components/schemas/ProblemOut"})
    documented = problems.document(shown["code"])
    assert documented
    assert documented["status"] == shown["status"]
    assert json.dumps(shown)


def test_problems_are_problems_only(schema: dict[str, Any]) -> None:
    """No answer is documented in a form that is never sent."""
    for name, operation in operations(schema):
        for status in ("4XX", "5XX"):
            assert set(operation["responses"][status].get("content", {})) == (
                set() if name.startswith("HEAD ") else {"application/problem+json"}
            ), name
        for status, response in operation["responses"].items():
            assert "X-Request-Id" in response["headers"], (name, status)


def test_headers_and_statuses_are_those_that_are_sent(world: World, schema: dict[str, Any]) -> None:
    """What the registry answers to reads, repeats and conditions is documented, header by header."""
    port = world.port["id"]
    tag = world.admin.get(f"/ports/{port}/files/config.json").headers["ETag"]
    job = world.acme.post(f"/ports/{port}/digest")
    draft = world.acme.draft(world.patch(), world.models.patch)
    file = draft["uploads"][0]["url"].removeprefix("/api/v1")
    asked = [
        ("GET /families/{family}/releases/{release}", world.admin.get("/families/llama/releases/v1")),
        ("GET /patches/{owner}/{patch}", world.admin.get("/patches/acme/tone")),
        ("GET /patches/{owner}/{patch}/versions/{number}", world.admin.get("/patches/acme/tone/versions/1")),
        ("GET /ports/{port}", world.admin.get(f"/ports/{port}")),
        ("POST /ports", world.acme.post("/ports", {"patch": "acme/tone", "release": "v2"}, {"Idempotency-Key": "a"})),
        ("POST /ports", world.acme.post("/ports", {"patch": "acme/tone", "release": "v2"}, {"Idempotency-Key": "a"})),
        ("POST /patches", world.acme.post("/patches", {"owner": "acme", "name": "tone", "family": "llama"})),
        ("POST /ports/{port}/digest", job),
        ("GET /ports/{port}/files/{path}", world.admin.get(f"/ports/{port}/files/config.json", {"Range": "bytes=0-3"})),
        ("GET /ports/{port}/files/{path}", world.admin.get(f"/ports/{port}/files/config.json", {"If-None-Match": tag})),
        ("HEAD /ports/{port}/files/{path}", world.admin.head(f"/ports/{port}/files/config.json", {"Range": "bytes=0-3"})),
        ("HEAD /ports/{port}/files/{path}", world.admin.head(f"/ports/{port}/files/config.json", {"If-None-Match": tag})),
        ("HEAD /uploads/{upload}/files/{path}", world.acme.head(file)),
        ("PATCH /uploads/{upload}/files/{path}", world.acme("PATCH", file, headers={"Upload-Offset": "0"})),
        ("GET /families/{family}", world.admin.get("/families/none")),
    ]  # fmt: skip
    usual = {"content-length", "content-type", "cache-control", "repr-digest"}
    usual |= {"x-content-type-options", "content-security-policy"}  # of every answer
    for name, answer in asked:
        method, path = name.split(" ")
        responses = schema["paths"]["/api/v1" + path][method.lower()]["responses"]
        documented = responses.get(str(answer.status_code)) or (responses["4XX"] if answer.status_code >= 400 else None)
        assert documented, (name, answer.status_code)
        unsaid = {header.lower() for header in answer.headers} - usual - {header.lower() for header in documented["headers"]}
        assert not unsaid, (name, answer.status_code, unsaid)
    assert {answer.status_code for _, answer in asked} >= {200, 202, 204, 206, 304, 404}
    world.service.run_jobs()
