"""`portllm fsck`: every kind of trouble is made, and named."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app.services import fsck
from tests.registry.conftest import Models
from tests.registry.service import Service


@pytest.fixture
def stocked(fresh: Callable[..., Service], models: Models) -> Service:
    """A registry with a release by reference, one that was copied, and a published patch."""
    service = fresh()
    service.admin.family("llama")
    service.release("llama", "v1", models.v1)
    service.release("llama", "v2", models.v2, copy=True)
    service.admin.publish(service.admin.patch("acme", "tone"), models.patch)
    return service


def found(service: Service, quick: bool = False) -> dict[str, list[str]]:
    """Subjects by code."""
    with service.runtime.read() as uow:
        troubles = fsck.check(uow, quick, lambda _done, _total: None)
    by_code: dict[str, list[str]] = {}
    for trouble in troubles:
        by_code.setdefault(trouble.code, []).append(trouble.subject)
    return by_code


def blob(service: Service, digest: str) -> Path:
    path = service.data / "blobs/sha256" / digest[:2] / digest
    path.chmod(0o600)
    return path


def test_nothing_is_wrong(stocked: Service) -> None:
    """A registry as it should be is clean, read whole or in a hurry."""
    assert found(stocked) == found(stocked, quick=True) == {}


def test_bytes_that_changed(stocked: Service) -> None:
    """One bit is found by reading, a byte too many by looking."""
    version = stocked.admin.get("/patches/acme/tone/versions/1").json()
    weights, config = (next(f for f in version["files"] if f["path"].endswith(end)) for end in (".safetensors", "_config.json"))
    content = bytearray(blob(stocked, weights["sha256"]).read_bytes())
    content[-1] ^= 1
    blob(stocked, weights["sha256"]).write_bytes(bytes(content))
    assert found(stocked, quick=True) == {}
    assert found(stocked) == {"blob.digest": ["acme/tone@1/adapter_model.safetensors"]}
    blob(stocked, config["sha256"]).write_bytes(b"{}")
    assert found(stocked, quick=True) == {"blob.size": ["acme/tone@1/adapter_config.json"]}


def test_bytes_that_are_gone(stocked: Service) -> None:
    """Of a version, of a copy, and the manifest itself."""
    version = stocked.admin.get("/patches/acme/tone/versions/1").json()
    blob(stocked, version["files"][0]["sha256"]).unlink()
    assert found(stocked) == {"blob.missing": [f"acme/tone@1/{version['files'][0]['path']}"]}
    manifest = stocked.admin.get("/families/llama/releases/v1").json()["manifest"]
    blob(stocked, manifest).unlink()
    assert "llama/v1 manifest" in found(stocked)["blob.missing"]


def test_a_release_that_changed_where_it_lies(fresh: Callable[..., Service], models: Models, tmp_path: Path) -> None:
    """By reference: a file that is another one now."""
    service = fresh()
    service.admin.family("llama")
    directory = service.place / "v1"
    directory.mkdir()
    for path in models.v1.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    service.release("llama", "v1", directory)
    os.utime(directory / "config.json", ns=(1, 1))
    assert found(service) == {"release.changed": ["llama/v1/config.json"]}


def test_what_nobody_names(stocked: Service) -> None:
    """Bytes and uploads that were left behind, once they are older than what may still be on its way."""
    blobs = stocked.runtime.tools.blobs
    blobs.append("forgotten", "0", 0, b"abc")
    stray = stocked.data / "blobs/sha256/00" / ("00" + "a" * 62)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")
    assert found(stocked) == {}
    for path in (stray, stocked.data / "blobs/staging/forgotten/0", stocked.data / "blobs/staging/forgotten"):
        os.utime(path, (1, 1))
    assert found(stocked) == {"blob.unnamed": [stray.name], "staging.abandoned": ["forgotten"]}
