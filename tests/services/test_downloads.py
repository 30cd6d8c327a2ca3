"""Downloads under way end when the right to them is withdrawn: by the token, or by the grant of the family."""

import logging
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

from app.domain.principal import Principal
from tests.support.fixtures import Models
from tests.support.http_server import serving
from tests.support.models import make_base
from tests.support.registry import Caller, Service
from tests.support.service_process import until

BIG = 64 * 2**20  # more than sockets buffer


@pytest.fixture(scope="module")
def private(registries: Callable[..., Service], models: Models) -> Iterator[tuple[Service, str, list[str]]]:
    """A registry behind a server, with family `secret`, its release v1 with large files, and a port of acme's."""
    with registries().running() as service, serving(service) as url:
        assert service.admin.post("/families", {"name": "secret"}).status_code == 201
        directory = make_base(service.place / "v1", vocab_size=200_000)
        with (directory / "notes.txt").open("wb") as file:
            file.truncate(BIG)
        assert service.release("secret", "v1", directory)["state"] == "ready"
        service.admin.publish(service.admin.patch("acme", "tone", "secret"), models.patch)
        port = service.admin.port("acme/tone", "v1")
        assert port["state"] == "ready", port
        merged = f"/api/v1/ports/{port['id']}/files"
        # Computed, carried, and over the Hub protocol.
        yield service, url, [f"{merged}/model.safetensors", f"{merged}/notes.txt", "/base/secret/resolve/v1/notes.txt"]


@contextmanager
def begun(url: str, path: str, token: str | None) -> Iterator[Callable[[], bool]]:
    """A download whose client stops after the first bytes; asked whether it is whole, it reads the rest."""
    target = urlsplit(url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((str(target.hostname), int(target.port or 0)))
        asked = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        client.sendall(asked.encode())
        client.settimeout(120)
        got = client.recv(2048)
        assert got.startswith(b"HTTP/1.1 200 OK"), got

        def is_whole() -> bool:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)
            head, _, body = got.partition(b"\r\n\r\n")
            count = len(body)
            try:
                while piece := client.recv(2**20):
                    count += len(piece)
            except ConnectionResetError:
                pass
            size = re.search(rb"content-length: (\d+)", head.lower())
            assert size, head
            return count == int(size[1])

        yield is_whole


def test_withdrawn_grant_ends_downloads(private: tuple[Service, str, list[str]]) -> None:
    """Those of the owner that lost it, whatever they read of the family; an admin's go on."""
    service, url, paths = private
    assert service.admin("PUT", "/families/secret/grants/acme").status_code == 200
    acme = service.caller("acme")
    family = next(iter(service.rows("SELECT id FROM families WHERE name = 'secret'")))[0]
    with ExitStack() as stack:
        ended = [stack.enter_context(begun(url, path, acme.token)) for path in paths]
        kept = stack.enter_context(begun(url, paths[1], service.admin.token))
        beside = service.runtime.tools.artifacts.downloads.open(
            principal_of(acme), family
        )  # ends with the others, in the same check
        assert service.admin("DELETE", "/families/secret/grants/acme").status_code == 200
        until(lambda: beside.has_ended)
        assert [is_whole() for is_whole in ended] == [False, False, False]
        assert kept()


def test_revoked_token_ends_downloads(private: tuple[Service, str, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    """Those of this token, and of no other; each is one line in the log."""
    service, url, paths = private
    assert service.admin("PUT", "/families/secret/grants/acme").status_code == 200
    acme, other = service.caller("acme"), service.caller("acme")
    with ExitStack() as stack:
        ended = [stack.enter_context(begun(url, path, acme.token)) for path in paths]
        kept = stack.enter_context(begun(url, paths[1], other.token))
        beside = service.runtime.tools.artifacts.downloads.open(principal_of(acme), None)
        assert service.admin("DELETE", f"/tokens/{principal_of(acme).token}").status_code == 200
        until(lambda: beside.has_ended)
        assert [is_whole() for is_whole in ended] == [False, False, False]
        assert kept()
    logged = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.exc_info for record in logged] == [None] * 3, logged
    assert all("was broken off" in record.getMessage() and "[token.missing]" in record.getMessage() for record in logged), logged


def principal_of(caller: Caller) -> Principal:
    said = caller.get("/whoami").json()
    return Principal(said["owner"], frozenset(said["scopes"]), said["token"])
