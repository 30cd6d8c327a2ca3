"""Uploads that break off: by a real socket, because a client in this process never goes away."""

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_pushes import Registry, registry
from tests.support.live_fixtures import models
from tests.support.service_process import until

__all__ = ["models"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("broken"), models) as running:
        yield running


def test_half_a_file(hub: Registry) -> None:
    """A client that goes away in the middle leaves nothing behind, and is no error of ours (upload.broken)."""
    name, content = hub.name(), b"half of this " * 200_000
    oid = hashlib.sha256(content).hexdigest()
    with hub.caller() as acme:
        owner, short = name.split("/")
        assert acme.post("/api/repos/create", json={"name": short, "organization": owner}).status_code == 200
        batch = {"operation": "upload", "transfers": ["basic"], "objects": [{"oid": oid, "size": len(content)}]}
        (asked,) = acme.post(f"/{name}.git/info/lfs/objects/batch", json=batch).json()["objects"]
        url = asked["actions"]["upload"]["href"]
        host, _, path = url.removeprefix("http://").partition("/")
        address, _, port = host.partition(":")
        with socket.create_connection((address, int(port))) as client:
            head = f"PUT /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(content)}\r\n\r\n"
            client.sendall(head.encode() + content[: len(content) // 2])
        until(lambda: not list((hub.service.data / "blobs" / "staging").iterdir()))

        def is_sent() -> bool:
            """The first attempt holds its lease until the service has noticed that its client went away."""
            answer = acme.put(url, content=content)
            assert answer.status_code == 200 or "upload.under_way" in answer.text, answer.text
            return answer.status_code == 200

        until(is_sent)
    assert "Traceback" not in hub.service.errors()


def test_killed_in_the_middle(hub: Registry, tmp_path: Path) -> None:
    """The service dies while weights arrive; started again, the same push makes the version."""
    from tests.support.hub_pushes import trained

    name, folder = hub.name(), trained(hub.models, tmp_path / "out")
    code = f"""
api.create_repo({name!r}, exist_ok=True)
tell(api.upload_folder(repo_id={name!r}, folder_path={str(folder)!r}).oid)
"""
    weights = (folder / "adapter_model.safetensors").read_bytes()
    with hub.caller() as acme:
        owner, short = name.split("/")
        assert acme.post("/api/repos/create", json={"name": short, "organization": owner}).status_code == 200
        oid = hashlib.sha256(weights).hexdigest()
        batch = {"operation": "upload", "objects": [{"oid": oid, "size": len(weights)}]}
        (asked,) = acme.post(f"/{name}.git/info/lfs/objects/batch", json=batch).json()["objects"]
        assert acme.put(asked["actions"]["upload"]["href"], content=weights).status_code == 200
    hub.service.kill()
    hub.service.start()
    hub.python(code).good()
    (version,) = hub.versions(name)
    assert version["number"] == 1
