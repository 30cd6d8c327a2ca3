"""Every operation of the API's own document, with what fits it and what does not, asked by every role and by nobody."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.main import create_app
from app.settings import Settings
from tests.fuzz.budget import SECONDS, limits, repeated, tried
from tests.support.fuzz_world import World

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip
OPERATIONS = [
    f"{method.upper()} {path}" for path, found in create_app(Settings(jobs=False)).openapi()["paths"].items() for method in found
]
STEPS = 12


@schemathesis.serializer("application/offset+octet-stream")
def octets(_: Any, value: Any) -> bytes:
    """Bytes of a file: as they are."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@pytest.fixture(scope="module")
def schema(roamed: World) -> Iterator[Any]:
    """The document, and the application without its beginning and end: it runs, and each request would end it."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await roamed.service.app(scope, receive, send)
            return
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})

    return schemathesis.openapi.from_asgi("/openapi.json", application)


def cases(operation: Any) -> Any:
    """Requests that the document allows, and such that it does not, where it forbids anything."""
    good = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if not any((operation.path_parameters, operation.query, operation.headers, operation.body)):
        return good
    return st.one_of(good, operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))


@pytest.mark.parametrize("name", OPERATIONS)
def test_any_request(name: str, schema: Any, wild: World) -> None:
    """Answered as documented, or refused with a documented code; nothing that is secret comes out."""
    operation = schema.find_operation_by_label(name)

    @tried(4)
    @given(cases(operation), st.sampled_from(sorted(wild.callers)), st.data())
    def ask(case: Any, role: str, data: st.DataObject) -> None:
        for parameter in case.path_parameters or ():  # things that are there: the rest of the names is 404
            if data.draw(st.booleans()):
                case.path_parameters[parameter] = data.draw(st.sampled_from(wild.known.get(parameter, ["nope"])))
        token = wild.callers[role].token
        answer = case.call(headers={"Authorization": f"Bearer {token}"} if token else {})
        case.validate_response(answer, checks=CHECKS)
        body = b"" if answer.content is None else answer.content
        if name not in ("POST /api/v1/tokens", "POST /api/v1/tokens/{token}/rotate"):
            assert b"plt_" not in body.replace(b"TOKEN", b"")
        wild.keeps_secrets(f"{answer.headers} {body.decode('latin-1')}")
        if answer.status_code >= 400 and case.method != "HEAD":
            assert answer.headers["content-type"] == ["application/problem+json"]
        wild.quiet()

    ask()


def test_one_after_another(schema: Any, wild: World) -> None:
    """What one answer names is asked for by the next: ids, names and the addresses in Location."""
    token = wild.callers["admin"].token

    class Visitor(schema.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Any) -> dict[str, Any]:  # noqa: ARG002  its signature
            return {"headers": {"Authorization": f"Bearer {token}"}}

        def validate_response(self, response: Any, case: Any, **_: Any) -> None:
            case.validate_response(response, checks=CHECKS)

    def visit() -> None:
        Visitor.run(settings=limits(4, STEPS))

    (repeated(visit) if SECONDS else visit)()
    wild.quiet()
