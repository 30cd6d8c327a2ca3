"""How many transactions a push makes, and how often its bytes are written and hashed.

The requests are those that huggingface_hub 2.4 sends for `PeftModel.push_to_hub`, in its order.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load, save

from tests.support.fixtures import Models
from tests.support.pusher import CARD, CONFIG, WEIGHTS, Pusher, digest, file, lfs, unpublished_patch
from tests.support.registry import Service, unique
from tests.support.transactions import Transactions, counted, counted_bytes
from tests.support.xet_blocks import chunk

BLOCK = "ab" * 32
CHUNK = 64 * 1024


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    with registries().running() as running:
        running.admin.family("llama")
        assert running.release("llama", "v1", models.v1)["state"] == "ready"
        assert running.admin.post("/families/llama/aliases", {"name": str(models.v1), "release": "v1"}).status_code == 201
        yield running


@pytest.fixture
def patch(models: Models, tmp_path: Path) -> dict[str, bytes]:
    return unpublished_patch(models, tmp_path)


def asked_first(pusher: Pusher, patch: dict[str, bytes]) -> None:
    """What clients ask before they send bytes."""
    pusher.create()
    assert pusher("HEAD", f"/{pusher.repository}/resolve/main/README.md").status_code == 404
    assert pusher("POST", "/api/validate-yaml", json={"content": "---\n---\n", "repoType": "model"}).status_code == 200
    files = [{"path": path, "size": len(content), "sample": ""} for path, content in patch.items()]
    assert pusher("POST", f"/api/models/{pusher.repository}/preupload/main", json={"files": files}).status_code == 200


def sent_by_xet(pusher: Pusher, patch: dict[str, bytes]) -> None:
    content, session = patch[WEIGHTS], pusher.session()
    chunks = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]
    for missing in ("GET v1/chunks/default/00", f"POST v1/xorb-grants/default/{BLOCK}"):
        method, path = missing.split()
        answer = pusher.service.client.request(method, f"{session.url}/{path}", headers=session.headers)
        assert answer.status_code == 404
    assert session.block(BLOCK, b"".join(chunk(part) for part in chunks)).status_code == 200
    assert pusher.service.client.post(f"{session.url}/v2/shards", headers=session.headers).status_code == 404
    assert session.shard((digest(content), [(BLOCK, len(content), 0, len(chunks))])).status_code == 200


def sent_by_lfs(pusher: Pusher, patch: dict[str, bytes]) -> None:
    pusher.send(patch[WEIGHTS])


def committed(pusher: Pusher, patch: dict[str, bytes]) -> None:
    lines = (file(CONFIG, patch[CONFIG]), file(CARD, patch[CARD]), lfs(WEIGHTS, patch[WEIGHTS]))
    assert pusher.commit(*lines).status_code == 200


def shown(found: Transactions) -> str:
    """For the message of a test that fails: the transactions beside those that authenticate."""
    return "\n".join(" | ".join(text.split("\n")[0][:60] for text in made) for made in found.of_use_cases())


@pytest.mark.parametrize(("send", "most"), [(sent_by_xet, 10), (sent_by_lfs, 9)])
def test_push_of_a_patch_makes_at_most_ten_transactions_beside_authentication(
    service: Service, patch: dict[str, bytes], send: Any, most: int
) -> None:
    pusher = Pusher(service, f"acme/{unique('cost')}")
    with counted(service.runtime) as found:
        for act in (asked_first, send, committed):
            act(pusher, patch)
    assert len(found.of_use_cases()) <= most, f"{found.total()} in all\n{shown(found)}"
    assert [version["number"] for version in pusher.versions()] == [1]


def other_weights(patch: dict[str, bytes], factor: float) -> dict[str, bytes]:
    """The patch with weights that the store does not have."""
    return {**patch, WEIGHTS: save({name: tensor * factor for name, tensor in load(patch[WEIGHTS]).items()})}


@pytest.mark.parametrize(("send", "factor", "written"), [(sent_by_xet, 2, 2), (sent_by_lfs, 3, 1)])
def test_push_hashes_bytes_once_and_writes_them_at_most_twice(
    service: Service, patch: dict[str, bytes], send: Any, factor: float, written: int
) -> None:
    """By Xet as a block and as the file that is made of it; else once. Promoting a verified file moves it within the store."""
    pushed = other_weights(patch, factor)
    pusher = Pusher(service, f"acme/{unique('cost')}")
    with counted_bytes(service.runtime) as found:
        for act in (asked_first, send, committed):
            act(pusher, pushed)
    assert [version["number"] for version in pusher.versions()] == [1]
    assert found.hashed_again == []
    assert found.appended <= written * len(pushed[WEIGHTS]) + len(pushed[CONFIG]) + len(pushed[CARD]) + 2**10
