"""Everything that a client sends has a bound: each text and list of every body, query and header, and streamed bodies."""

import itertools
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.fixtures import World
from tests.support.registry import API, refused
from tests.support.service_process import until
from tests.support.uploads import announce

TEXT = b"x" * 1000


def unbounded(document: dict[str, Any], schema: dict[str, Any], where: str) -> Iterator[str]:
    """Texts without a greatest length and lists without a greatest number, of what a schema describes."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from unbounded(document, document["components"]["schemas"][name], name)
    for alternative in itertools.chain.from_iterable(schema.get(key, ()) for key in ("anyOf", "oneOf", "allOf")):
        yield from unbounded(document, alternative, where)
    kind = schema.get("type")
    if kind == "string" and not {"maxLength", "enum", "const"} & schema.keys() and schema.get("format") != "binary":
        yield where
    if kind == "array":
        if "maxItems" not in schema:
            yield f"{where}[]"
        yield from unbounded(document, schema.get("items", {}), f"{where}[...]")
    if schema.get("additionalProperties"):
        yield f"{where} takes any field"
    for name, part in schema.get("properties", {}).items():
        yield from unbounded(document, part, f"{where}.{name}")


def test_every_text_and_list_has_a_bound(world: World) -> None:
    """Of bodies, queries and headers. Texts in paths are as long as the head of a request may be, and are compared, not kept."""
    document = world.service.app.openapi()
    found, looked_at = [], 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            for parameter in operation.get("parameters", ()):
                if parameter["in"] != "path":
                    looked_at += 1
                    found += unbounded(document, parameter["schema"], f"{name}: {parameter['name']}")
            for content in operation.get("requestBody", {}).get("content", {}).values():
                looked_at += 1
                found += unbounded(document, content["schema"], name)
    assert found == []
    assert looked_at > 40


def test_field_without_a_bound_is_found() -> None:
    """Or the test above would say nothing."""
    body = {"properties": {"a": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}}
    document = {"components": {"schemas": {"Body": body}}}
    assert list(unbounded(document, {"$ref": "#/components/schemas/Body"}, "x")) == ["Body.a[]", "Body.a[...]"]


def test_only_upload_bodies_are_streamed(world: World) -> None:
    """All other bodies are taken whole, up to a bound: the only route that takes bytes is the one that is left out there."""
    paths = world.service.app.openapi()["paths"]
    streamed = {
        (method, path)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if set(operation.get("requestBody", {}).get("content", {})) - {"application/json"}
    }
    assert streamed == {("patch", f"{API}/uploads/{{upload}}/files/{{path}}")}


def chunks(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield TEXT


def test_chunked_body_beyond_its_bound_is_refused(world: World, live: str) -> None:
    """Sent in chunks, without a Content-Length: cut at the bound as any other."""
    limit = world.service.settings.max_body_bytes
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"x" * 2**16

    headers = {"Authorization": f"Bearer {world.admin.token}"}
    # The answer may be lost to a client that is still sending; the registry is not filled either way.
    with suppress(httpx.TransportError), httpx.Client(base_url=live, headers=headers, timeout=30) as client:
        refused(client.post(f"{API}/families", content=endless()), 413, "request.too_large")
    assert taken * 2**16 < limit + 64 * 2**20


@pytest.fixture
def draft(world: World) -> tuple[str, str]:
    """An upload and its largest file's address, of 3000 bytes."""
    files = [announce("adapter_config.json", b"{}"), announce("adapter_model.safetensors", TEXT * 3)]
    made = world.acme.post(f"/patches/{world.patch()}/versions", {"trained_on": "v1", "files": files}).json()
    return made["id"], next(u["url"] for u in made["uploads"] if u["path"].endswith(".safetensors"))


def test_chunked_upload_beyond_its_announced_size_is_refused(world: World, live: str, draft: tuple[str, str]) -> None:
    """What was announced is the bound, also where no Content-Length says how much comes."""
    headers = {"Authorization": f"Bearer {world.acme.token}", "Upload-Offset": "0"}
    with httpx.Client(base_url=live, headers=headers, timeout=30) as client:
        refused(client.patch(draft[1], content=chunks(4)), 413, "upload.too_long")
        assert client.head(draft[1]).headers["Upload-Offset"] == "0"
        assert client.patch(draft[1], content=chunks(3)).status_code == 204
        assert client.head(draft[1]).headers["Upload-Offset"] == "3000"


@pytest.mark.parametrize(("said", "sent", "kept"), [(1000, 3000, 1000), (10**15, 5000, 0), (2**64, 5000, 0)])
def test_upload_longer_than_announced_is_cut(
    world: World, live: str, draft: tuple[str, str], said: int, sent: int, kept: int
) -> None:
    """What comes beyond a Content-Length belongs to no request; what comes beyond what was announced is not kept."""
    address = urlsplit(live)
    head = (
        f"PATCH {draft[1]} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.acme.token}\r\nUpload-Offset: 0\r\n"
        f"Connection: close\r\nContent-Length: {said}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port or 80), 20) as client:
        client.sendall(head.encode() + b"x" * sent)
        with suppress(ConnectionError):
            while client.recv(2**16):
                pass
    assert world.acme.head(draft[1]).headers["Upload-Offset"] == str(kept)


def test_upload_that_breaks_off_keeps_what_arrived(world: World, live: str, draft: tuple[str, str]) -> None:
    """What arrived before the client went away is kept, though it is less than one piece of those that are written."""
    address = urlsplit(live)
    head = (
        f"PATCH {draft[1]} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {world.acme.token}\r\nUpload-Offset: 0\r\n"
        f"Expect: 100-continue\r\nContent-Length: 3000\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port or 80), 20) as client:
        client.sendall(head.encode())
        assert b" 100 " in client.recv(1000), "the endpoint waits for the body"
        client.sendall(b"x" * 1000)
        time.sleep(0.5)  # uvicorn forgets what it has not handed on when a client goes away
    until(lambda: world.acme.head(draft[1]).headers["Upload-Offset"] == "1000", 20)


def test_lists_with_too_many_items_are_refused(world: World) -> None:
    """Ten thousand and one of a version, a hundred and one readers of a family."""
    files = [announce(f"{number}.txt", b"") for number in range(10_001)]
    refused(world.acme.post(f"/patches/{world.patch()}/versions", {"trained_on": "v1", "files": files}), 422, "request.invalid")
    refused(world.admin.post("/families", {"name": "many", "readers": ["x"] * 101}), 422, "request.invalid")
