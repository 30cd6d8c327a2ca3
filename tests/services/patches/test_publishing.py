"""Publishing a draft: bytes are verified outside transactions, by one request at a time, and a refusal is remembered."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.hub.routers import commits
from app.services.patches import drafts, verification
from tests.support.connections import watched
from tests.support.fixtures import World
from tests.support.halted_blobs import PATIENCE, halted
from tests.support.hub_requests import refused_by_hub
from tests.support.pusher import Pusher
from tests.support.registry import refused
from tests.support.uploads import announced, append, send

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def broken(another: Callable[[], Path]) -> Path:
    """A patch with a value that is no number, which only reading all of it shows."""
    directory = another()
    tensors = load_file(directory / WEIGHTS)
    name = max(tensors)
    tensors[name] = np.full_like(tensors[name], np.nan)
    save_file(tensors, directory / WEIGHTS)
    return directory


def test_publish_holds_no_connection_while_bytes_are_hashed(world: World, another: Callable[[], Path]) -> None:
    """What is verified may be gigabytes; a transaction that is open meanwhile is ended by managed servers."""
    draft = world.acme.uploaded(world.patch(), another())
    with watched(world.service.runtime) as blobs:
        assert world.acme.post(f"/uploads/{draft['id']}/publish").status_code == 200
    assert {operation for operation, _ in blobs.seen} >= {"promote", "open", "read"}
    assert blobs.held() == []


def test_publish_while_another_publishes_is_refused_at_once(world: World, another: Callable[[], Path]) -> None:
    """The second is told when to come back and gets the version then; a stranger learns nothing of the upload."""
    draft = world.acme.uploaded(world.patch(), another())
    address = f"/uploads/{draft['id']}/publish"
    with halted(world.service.runtime, "promote") as blobs, ThreadPoolExecutor(1) as pool:
        first = pool.submit(world.acme.post, address)
        assert blobs.calls.acquire(timeout=PATIENCE)
        second = world.acme.post(address)
        refused(second, 503, "request.under_way")
        assert second.headers["Retry-After"]
        refused(world.rival.post(address), 404, "upload.unknown")
        blobs.go_on.set()
        assert first.result(60).status_code == 200
    assert world.acme.post(address).json() == first.result().json()


def test_publish_of_refused_draft_repeats_the_refusal_without_reading(world: World, broken: Path) -> None:
    """Reading it all again would give the same answer, as often as somebody asks."""
    draft = world.acme.uploaded(world.patch(), broken)
    address = f"/uploads/{draft['id']}/publish"
    problem = refused(world.acme.post(address), 422, "adapter.non_finite")
    with watched(world.service.runtime) as blobs:
        assert refused(world.acme.post(address), 422, "adapter.non_finite") == problem
    assert blobs.seen == []


def test_publish_after_refused_file_was_sent_again_verifies_anew(world: World, another: Callable[[], Path]) -> None:
    """A refusal holds for the bytes that were refused."""
    directory = another()
    draft = world.acme.draft(world.patch(), directory)
    address, content = f"/uploads/{draft['id']}/publish", (directory / WEIGHTS).read_bytes()
    url = next(u["url"] for u in draft["uploads"] if u["path"] == WEIGHTS)
    send(world.acme, {"uploads": [u for u in draft["uploads"] if u["path"] != WEIGHTS]}, directory)
    append(world.acme, url, 0, bytes(len(content)))
    for _ in range(2):
        refused(world.acme.post(address), 422, "upload.digest")
    assert append(world.acme, url, 0, content).status_code == 204
    assert world.acme.post(address).status_code == 200


def test_publish_after_right_bytes_came_before_the_refusal_was_recorded_verifies_anew(
    world: World, another: Callable[[], Path]
) -> None:
    """The request that brought them saw no refusal yet, and so could not end it."""
    directory = another()
    draft = world.acme.draft(world.patch(), directory)
    address, content = f"/uploads/{draft['id']}/publish", (directory / WEIGHTS).read_bytes()
    index = next(index for index, u in enumerate(draft["uploads"]) if u["path"] == WEIGHTS)
    send(world.acme, {"uploads": [u for u in draft["uploads"] if u["path"] != WEIGHTS]}, directory)
    append(world.acme, draft["uploads"][index]["url"], 0, bytes(len(content)))
    refused(world.acme.post(address), 422, "upload.digest")
    world.service.runtime.tools.blobs.append(draft["id"], str(index), 0, content)
    assert world.acme.post(address).status_code == 200


def test_verify_of_staged_bytes_that_nobody_hashed_hashes_them_though_another_draft_had_the_file(
    world: World, broken: Path
) -> None:
    """Bytes that went straight to an object store are not known to be those of the verified file with the same digest."""
    repository, blobs = world.patch(), world.service.runtime.tools.blobs
    refused(world.acme.post(f"/uploads/{world.acme.uploaded(repository, broken)['id']}/publish"), 422, "adapter.non_finite")
    files = {file["path"]: file for file in announced(broken)}
    sha256 = files[WEIGHTS]["sha256"]
    blobs.delete(sha256)
    blobs.append("direct", "0", 0, bytes(files[WEIGHTS]["size"]))
    wanted = [drafts.AnnouncedFile(**file, staged="direct" if path == WEIGHTS else None) for path, file in files.items()]
    acme = Principal("acme", frozenset({"read", "publish"}), "test")
    with world.service.runtime.write() as uow:
        upload = drafts.draft(uow, acme, *repository.split("/"), "v1", wanted)[0].id
    with pytest.raises(DomainError) as caught:
        verification.verify(world.service.runtime, acme, upload)
    assert caught.value.code == "upload.digest"
    assert blobs.size(sha256) is None


def test_commit_while_another_is_taken_is_refused_after_a_while(
    world: World, another: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the Hub protocol it waits a little, without a thread: clients there take any refusal for the end."""
    monkeypatch.setattr(commits, "PATIENCE_SECONDS", 0.1)
    repository = world.patch()
    pusher = Pusher(world.service, repository)
    line = {"key": "file", "value": {"path": "README.md", "content": base64.b64encode(b"card").decode(), "encoding": "base64"}}
    with world.service.runtime.exclusive(f"push:{repository}", f"A push to {repository}"):
        refusal = pusher.commit(line)
        refused_by_hub(refusal, 503, None, "request.under_way")
        assert refusal.headers["Retry-After"]
    assert pusher.commit(line).status_code == 200
