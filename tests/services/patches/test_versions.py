"""Versions: published once, numbered, content-addressed, yanked, never edited."""

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.support.fixtures import World
from tests.support.models import Shelf, load_tensors
from tests.support.registry import refused
from tests.support.uploads import announced, send

WEIGHTS = "adapter_model.safetensors"


def test_published_version_has_number_files_and_facts(world: World, another: Callable[[], Path]) -> None:
    """A version says what it is: number, files, facts, the release it was trained on."""
    patch, directory = world.patch(), another()
    version = world.acme.publish(patch, directory)
    assert (version["number"], version["state"], version["trained_on"]) == (1, "published", "v1")
    assert version["patch"] == patch
    assert version["published_at"] >= version["created_at"]
    assert version["uploads"] == []
    assert version["files"] == announced(directory)
    facts = version["facts"]
    assert (facts["rank"], facts["alpha"], facts["rslora"], facts["modules"]) == (8, 16, False, 14)
    assert facts["targets"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert facts["parameters"] == sum(t.numel() for t in load_tensors(directory / WEIGHTS)[0].values())
    assert world.acme.publish(patch, another())["number"] == 2
    listed = world.acme.get(f"/patches/{patch}/versions").json()["items"]
    assert [v["number"] for v in listed] == [2, 1]
    assert listed[1] == version


def test_same_bytes_twice_are_one_version(world: World, another: Callable[[], Path]) -> None:
    """The same bytes are the same version: at the announcement, or at the end of an upload that began before."""
    patch, directory = world.patch(), another()
    early = world.acme.uploaded(patch, directory)
    version = world.acme.publish(patch, directory)
    announced_again = world.acme.draft(patch, directory)
    assert announced_again == version
    assert world.acme.post(f"/uploads/{early['id']}/publish").json() == version
    # A client that lost the answer asks again.
    assert world.acme.post(f"/uploads/{version['id']}/publish").json() == version
    assert len(world.acme.get(f"/patches/{patch}/versions").json()["items"]) == 1
    # Another patch has versions of its own; the bytes are kept once.
    other = world.acme.publish(world.patch(), directory)
    assert other["digest"] == version["digest"]
    assert other["id"] != version["id"]
    blobs = world.service.data / "blobs" / "sha256"
    assert len(list(blobs.glob(f"*/{version['files'][0]['sha256']}"))) == 1


def test_newest_version_is_the_last_published(world: World, another: Callable[[], Path]) -> None:
    """Of two drafts the one that was opened first may be published last: lists, pages and main go by the number."""
    patch = world.patch()
    slow = world.acme.uploaded(patch, another())
    world.acme.publish(patch, another())
    assert world.acme.post(f"/uploads/{slow['id']}/publish").json()["number"] == 2
    world.acme.publish(patch, another())
    assert [v["number"] for v in world.acme.get(f"/patches/{patch}/versions").json()["items"]] == [3, 2, 1]
    found, cursor = [], {}
    for _ in range(3):
        page = world.acme.get(f"/patches/{patch}/versions", limit=1, **cursor).json()
        found += [v["number"] for v in page["items"]]
        cursor = {"cursor": page["next_cursor"]}
    assert (found, cursor) == ([3, 2, 1], {"cursor": None})


def test_same_bytes_trained_on_another_release_are_refused(world: World, another: Callable[[], Path]) -> None:
    """What a version was trained on never changes, so the same bytes with another base are refused."""
    patch, directory = world.patch(), another()
    early = world.acme.uploaded(patch, directory, "v2")
    world.acme.publish(patch, directory)
    for trained_on in ("v2", "unknown"):
        body = {"trained_on": trained_on, "files": announced(directory)}
        problem = refused(world.acme.post(f"/patches/{patch}/versions", body), 409, "version.trained_on")
        assert problem["data"] == {"version": 1, "release": "v1", "asked": trained_on}
    refused(world.acme.post(f"/uploads/{early['id']}/publish"), 409, "version.trained_on")
    assert len(world.acme.get(f"/patches/{patch}/versions").json()["items"]) == 1


def test_dropped_files_are_reported(world: World, another: Callable[[], Path]) -> None:
    """Companions of a training run are neither asked for nor stored, and the answer names them."""
    patch, directory = world.patch(), another()
    plain = world.acme.draft(patch, directory)["digest"]
    for name in ("training_args.bin", "optimizer.pt", "checkpoint-5/trainer_state.json", "notes.txt"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(name)
    draft = world.acme.draft(patch, directory)
    dropped = ["checkpoint-5/trainer_state.json", "notes.txt", "optimizer.pt", "training_args.bin"]
    assert draft["dropped"] == dropped
    assert {u["path"] for u in draft["uploads"]} == {"README.md", "adapter_config.json", WEIGHTS}
    assert draft["digest"] == plain
    send(world.acme, draft, directory)
    assert world.acme.post(f"/uploads/{draft['id']}/publish").json()["dropped"] == dropped


def _refused_at_publish(world: World, patch: str, directory: Path, code: str) -> None:
    """The publication is refused, nothing is visible, and no number is lost."""
    draft = world.acme.uploaded(patch, directory)
    refused(world.acme.post(f"/uploads/{draft['id']}/publish"), 422, code)
    assert world.acme.get(f"/patches/{patch}/versions").json()["items"] == []
    refused(world.acme.get(f"/patches/{patch}/versions/1"), 404, "version.unknown")
    query = "SELECT number, CAST(facts AS VARCHAR) FROM patch_versions WHERE id = :id"
    assert world.service.rows(query, id=draft["id"]) == [(None, "null")]


def test_patch_of_another_base_is_refused(world: World, shelf: Shelf, another: Callable[[], Path]) -> None:
    """A patch whose shapes or modules are not those of the release that it names is refused; the next one is version 1."""
    patch = world.patch()
    _refused_at_publish(world, patch, shelf.patch(world.models.wide), "port.shape")
    deep = shelf.base(num_hidden_layers=3)
    _refused_at_publish(world, patch, shelf.patch(deep), "port.target_missing")
    assert world.acme.publish(patch, another())["number"] == 1


def test_patch_with_nan_is_refused(world: World, another: Callable[[], Path]) -> None:
    """A patch whose training diverged is refused, by the tensor's name."""
    directory = another()
    tensors, metadata = load_tensors(directory / WEIGHTS)
    name = sorted(tensors)[3]
    tensors[name][0, 1], tensors[name][1, 0] = torch.nan, torch.inf
    save_file(tensors, directory / WEIGHTS, metadata=metadata)
    patch = world.patch()
    draft = world.acme.uploaded(patch, directory)
    problem = refused(world.acme.post(f"/uploads/{draft['id']}/publish"), 422, "adapter.non_finite")
    assert problem["data"] == {"tensor": name, "count": 2}
    assert world.acme.get(f"/patches/{patch}/versions").json()["items"] == []


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff\xfe"])
def test_damaged_configuration_is_refused(world: World, another: Callable[[], Path], content: bytes) -> None:
    """What is announced and arrives, but is no adapter configuration, is refused by name."""
    directory = another()
    (directory / "adapter_config.json").write_bytes(content)
    _refused_at_publish(world, world.patch(), directory, "adapter.invalid_config")


def test_version_trained_on_an_unknown_release_is_refused(world: World, another: Callable[[], Path]) -> None:
    """A version is trained on a release of its own family that is ready, or on `unknown`."""
    patch = world.patch()
    body = {"trained_on": "v77", "files": announced(another())}
    problem = refused(world.acme.post(f"/patches/{patch}/versions", body), 404, "release.unknown")
    assert problem["data"] == {"family": "llama", "release": "v77"}
    other = world.acme.patch("acme", "elsewhere", world.admin.family("elsewhere"))
    body["trained_on"] = "v1"
    refused(world.acme.post(f"/patches/{other}/versions", body), 404, "release.unknown")


@pytest.mark.parametrize("drafts", [1, 2])
def test_publish_by_several_clients_at_once_makes_one_version(world: World, another: Callable[[], Path], drafts: int) -> None:
    """Of one draft, one request publishes and the others are refused at once; repeated, all get the same version."""
    patch, directory = world.patch(), another()
    uploads = [world.acme.uploaded(patch, directory)["id"] for _ in range(drafts)]
    start, clients = threading.Barrier(4), 4

    def publish(index: int) -> Any:
        start.wait()
        return world.acme.post(f"/uploads/{uploads[index % drafts]}/publish")

    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(publish, range(clients)))
    for answer in (a for a in answers if a.status_code != 200):
        refused(answer, 503, "request.under_way")
        assert int(answer.headers["Retry-After"]) >= 1
    repeated = [world.acme.post(f"/uploads/{upload}/publish") for upload in uploads]
    assert {a.status_code for a in repeated} == {200}, [a.text for a in repeated]
    published = repeated + [a for a in answers if a.status_code == 200]
    assert len(published) > drafts
    assert len({a.json()["id"] for a in published}) == 1
    listed = world.acme.get(f"/patches/{patch}/versions").json()["items"]
    assert [v["number"] for v in listed] == [1]
    assert world.acme.port(patch, "v1")["state"] == "ready"


def test_yanked_version_is_hidden_and_its_port_is_read(world: World, another: Callable[[], Path]) -> None:
    """A yanked version is hidden from selection; a ready port of it is read on, and can be found by its number."""
    patch = world.patch()
    world.acme.publish(patch, another())
    newest = world.acme.publish(patch, another())
    port = world.acme.port(patch, "v2")
    assert port["version"] == 2
    yanked = world.acme.post(f"/patches/{patch}/versions/2/yank", {"reason": "wrong data"})
    assert (yanked.json()["state"], yanked.json()["yank_reason"]) == ("yanked", "wrong data")
    assert world.acme.port(patch, "v2")["version"] == 1
    refused(world.acme.post("/ports", {"patch": patch, "release": "v1", "version": 2}), 410, "version.yanked")
    body = {"trained_on": "v1", "files": newest["files"]}
    refused(world.acme.post(f"/patches/{patch}/versions", body), 410, "version.yanked")
    refused(world.acme.post(f"/patches/{patch}/versions/2/yank", {"reason": "twice"}), 409, "state.move")
    refused(world.acme.post(f"/patches/{patch}/versions/9/yank", {"reason": "?"}), 404, "version.unknown")
    assert world.acme.get(f"/ports/{port['id']}").json()["state"] == "ready"
    assert world.acme.get(f"/ports/{port['id']}/files/config.json").status_code == 200
    found = world.acme.get("/ports", patch=patch, version="2", release="v2", state="ready").json()["items"]
    assert [p["id"] for p in found] == [port["id"]]
    assert world.acme.get(f"/patches/{patch}/versions/2").json()["state"] == "yanked"


def test_stored_patch_equals_the_sent_directory(world: World, another: Callable[[], Path], tmp_path: Path) -> None:
    """The bytes in the store are those that were sent, each under its digest and not writable."""
    directory = another()
    version = world.acme.publish(world.patch(), directory)
    back = tmp_path / "back"
    back.mkdir()
    for file in version["files"]:
        blob = world.service.data / "blobs" / "sha256" / file["sha256"][:2] / file["sha256"]
        assert blob.stat().st_mode & 0o777 == 0o400
        shutil.copyfile(blob, back / file["path"])
    assert announced(back) == announced(directory)
