"""Uploads: announced, sent in pieces, resumed, verified before anything is visible."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import World
from tests.support.registry import Caller, Service, refused, unique
from tests.support.uploads import announce, announced, append, send

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def draft(world: World, another: Callable[[], Path]) -> tuple[str, dict[str, Any], Path]:
    """A patch, a draft of it, and the directory that it announces."""
    patch, directory = world.patch(), another()
    return patch, world.acme.draft(patch, directory), directory


def test_draft_says_what_to_send(world: World, draft: tuple[str, dict[str, Any], Path]) -> None:
    """A draft lists every file with its URL, has no number yet, and is not among the versions."""
    patch, drafted, directory = draft
    assert (drafted["state"], drafted["number"], drafted["facts"]) == ("draft", None, None)
    sizes = {p.name: p.stat().st_size for p in directory.iterdir()}
    assert {u["path"]: u["size"] for u in drafted["uploads"]} == sizes
    assert {u["received"] for u in drafted["uploads"]} == {0}
    assert drafted["total_bytes"] == sum(sizes.values())
    assert world.acme.get(f"/patches/{patch}/versions").json()["items"] == []
    refused(world.acme.get(f"/patches/{patch}/versions/1"), 404, "version.unknown")
    refused(world.acme.post("/ports", {"patch": patch, "release": "v2"}), 409, "version.none")


def test_resume_at_any_offset(world: World, draft: tuple[str, dict[str, Any], Path]) -> None:
    """HEAD tells what arrived; pieces of any size make the whole; then it is published."""
    patch, drafted, directory = draft
    for upload in drafted["uploads"]:
        content, offset = (directory / upload["path"]).read_bytes(), 0
        for piece in (1, 999, 65_537, len(content)):
            head = world.acme.head(upload["url"])
            assert head.status_code == 200
            assert head.headers["Upload-Offset"] == str(offset)
            assert head.headers["Upload-Length"] == str(len(content))
            part = content[offset : offset + piece]
            sent = append(world.acme, upload["url"], offset, part)
            assert sent.status_code == 204
            offset += len(part)
            assert sent.headers["Upload-Offset"] == str(offset)
    received = {u["path"]: u["received"] for u in world.acme.get(f"/uploads/{drafted['id']}").json()["uploads"]}
    assert received == {p.name: p.stat().st_size for p in directory.iterdir()}
    published = world.acme.post(f"/uploads/{drafted['id']}/publish")
    assert published.json()["number"] == 1
    assert world.acme.get(f"/patches/{patch}/versions/1").json() == published.json()


def test_wrong_offset(world: World, draft: tuple[str, dict[str, Any], Path]) -> None:
    """Bytes that do not begin where the last ended are refused, and the answer says where to go on."""
    _, drafted, directory = draft
    url = next(u["url"] for u in drafted["uploads"] if u["path"] == WEIGHTS)
    content = (directory / WEIGHTS).read_bytes()
    assert append(world.acme, url, 0, content[:100]).status_code == 204
    for offset, part in ((0, content[:50]), (99, b"x"), (101, b"x"), (50, b""), (len(content), b"")):
        problem = refused(append(world.acme, url, offset, part), 409, "upload.offset")
        assert problem["data"] == {"path": WEIGHTS, "received": 100, "offset": offset}
    assert world.acme.head(url).headers["Upload-Offset"] == "100"
    for offset in ("-1", "x", "1.5"):
        sent = world.acme("PATCH", url, content=b"x", headers={"Upload-Offset": offset})
        refused(sent, 422, "request.invalid")
    refused(world.acme("PATCH", url, content=b"x"), 422, "request.invalid")


def test_more_than_announced(world: World, draft: tuple[str, dict[str, Any], Path]) -> None:
    """Not a byte more than was announced is kept."""
    _, drafted, directory = draft
    url = next(u["url"] for u in drafted["uploads"] if u["path"] == "adapter_config.json")
    content = (directory / "adapter_config.json").read_bytes()
    problem = refused(append(world.acme, url, 0, content + b"!"), 413, "upload.too_long")
    assert problem["data"]["size"] == len(content)
    assert append(world.acme, url, 0, content).status_code == 204
    refused(append(world.acme, url, len(content), b"!"), 413, "upload.too_long")
    assert world.acme.head(url).headers["Upload-Offset"] == str(len(content))


def test_truncated_upload(world: World, draft: tuple[str, dict[str, Any], Path]) -> None:
    """What has not arrived whole cannot be published; the rest can still be sent."""
    patch, drafted, directory = draft
    send(world.acme, {"uploads": [u for u in drafted["uploads"] if u["path"] != WEIGHTS]}, directory)
    url, content = f"{drafted['id']}/files/{WEIGHTS}", (directory / WEIGHTS).read_bytes()
    assert append(world.acme, f"/uploads/{url}", 0, content[:-1]).status_code == 204
    problem = refused(world.acme.post(f"/uploads/{drafted['id']}/publish"), 409, "upload.incomplete")
    assert problem["data"] == {"path": WEIGHTS, "received": len(content) - 1, "size": len(content)}
    assert world.acme.get(f"/patches/{patch}/versions").json()["items"] == []
    assert append(world.acme, f"/uploads/{url}", len(content) - 1, content[-1:]).status_code == 204
    assert world.acme.post(f"/uploads/{drafted['id']}/publish").json()["state"] == "published"


def test_wrong_digest(world: World, draft: tuple[str, dict[str, Any], Path]) -> None:
    """Bytes of another digest than announced are dropped and nothing becomes visible; sent again, they are published."""
    patch, drafted, directory = draft
    content = (directory / WEIGHTS).read_bytes()
    send(world.acme, {"uploads": [u for u in drafted["uploads"] if u["path"] != WEIGHTS]}, directory)
    url = next(u["url"] for u in drafted["uploads"] if u["path"] == WEIGHTS)
    assert append(world.acme, url, 0, content[:-1] + bytes([content[-1] ^ 1])).status_code == 204
    problem = refused(world.acme.post(f"/uploads/{drafted['id']}/publish"), 422, "upload.digest")
    assert problem["data"]["path"] == WEIGHTS
    assert world.acme.get(f"/patches/{patch}/versions").json()["items"] == []
    assert world.acme.head(url).headers["Upload-Offset"] == "0"
    again = world.acme.get(f"/uploads/{drafted['id']}").json()
    for upload in again["uploads"]:
        append(world.acme, upload["url"], upload["received"], (directory / upload["path"]).read_bytes()[upload["received"] :])
    assert world.acme.post(f"/uploads/{drafted['id']}/publish").json()["number"] == 1


def test_files_and_uploads_that_are_not_there(world: World, draft: tuple[str, dict[str, Any], Path]) -> None:
    """Only announced files of open uploads; a path never becomes a key of the store."""
    _, drafted, directory = draft
    for path in ("other.bin", "../adapter_config.json", "%2e%2e/%2e%2e/x", "0"):
        url = f"/uploads/{drafted['id']}/files/{path}"
        if ".." not in path:
            refused(append(world.acme, url, 0, b"x"), 404, "upload.file")
            assert world.acme.head(url).status_code == 404
    refused(world.acme.get("/uploads/ver_nope"), 404, "upload.unknown")
    refused(world.acme.post("/uploads/ver_nope/publish"), 404, "upload.unknown")
    refused(append(world.acme, "/uploads/ver_nope/files/a", 0, b"x"), 404, "upload.unknown")
    send(world.acme, drafted, directory)
    assert world.acme.post(f"/uploads/{drafted['id']}/publish").status_code == 200
    refused(append(world.acme, drafted["uploads"][0]["url"], 0, b"x"), 404, "upload.unknown")
    refused(world.acme.get(f"/uploads/{drafted['id']}"), 404, "upload.unknown")


def test_empty_file(world: World, another: Callable[[], Path]) -> None:
    """A file of no bytes needs no request to arrive."""
    directory = another()
    (directory / "README.md").write_bytes(b"")
    assert world.acme.publish(world.patch(), directory)["state"] == "published"


def test_announcements_that_cannot_be(fresh: Callable[..., Service], models: Any) -> None:
    """Size limits hold before a byte is sent; files are listed once, with proper digests."""
    service = fresh(max_patch_bytes=100_000, max_patch_files=5)
    service.admin.family("llama")
    service.release("llama", "v1", models.v1)
    patch = service.admin.patch("acme", "tone")
    good = announced(models.patch)

    def draft(files: list[dict[str, Any]]) -> Any:
        return service.admin.post(f"/patches/{patch}/versions", {"trained_on": "v1", "files": files})

    assert draft(good).status_code == 201
    huge = [f | {"size": 100_001} if f["path"] == WEIGHTS else f for f in good]
    problem = refused(draft(huge), 413, "request.too_large")
    assert problem["data"]["limit"] == 100_000
    # What is dropped does not count.
    assert draft([*good, announce("optimizer.pt", b"") | {"size": 10**12}]).status_code == 201
    refused(draft([*good, good[0]]), 422, "version.files")
    refused(draft([*good, *(announce(f"{i}.txt", b"") for i in range(5))]), 422, "version.files")
    refused(draft([f | {"sha256": f["sha256"].upper()} for f in good]), 422, "version.files")
    refused(draft([f | {"sha256": "ab"} for f in good]), 422, "request.invalid")
    refused(draft([f | {"size": -1} for f in good]), 422, "request.invalid")
    refused(draft([]), 422, "request.invalid")
    refused(draft([f for f in good if f["path"] != WEIGHTS]), 422, "adapter.missing_file")
    pickled = [announce("adapter_model.bin", b"x") if f["path"] == WEIGHTS else f for f in good]
    refused(draft(pickled), 422, "adapter.pickle")


def test_disk_full(world: World, draft: tuple[str, dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is said plainly, and the upload goes on when there is space again.

    `os.pwrite` refuses as a full disk does; `test_disk_full` fills one, where the machine lets us mount it.
    """
    _, drafted, directory = draft
    upload = drafted["uploads"][0]
    content = (directory / upload["path"]).read_bytes()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        problem = refused(append(world.acme, upload["url"], 0, content), 507, "server.storage_full")
    assert "free space" in problem["remedy"]
    offset = int(world.acme.head(upload["url"]).headers["Upload-Offset"])
    assert append(world.acme, upload["url"], offset, content[offset:]).status_code == 204
    send(world.acme, {"uploads": drafted["uploads"][1:]}, directory)
    assert world.acme.post(f"/uploads/{drafted['id']}/publish").status_code == 200


def test_bytes_cannot_go_past_a_local_store(world: World) -> None:
    """Where clients cannot reach the store, the draft does not offer it, and asking is refused."""
    draft = world.acme.draft(world.patch(), world.models.patch)
    assert not any(upload["direct"] for upload in draft["uploads"])
    refused(world.acme.post(f"/uploads/{draft['id']}/direct", {"path": "adapter_config.json"}), 409, "upload.not_direct")


def test_only_the_damaged_file_is_sent_again(world: World, draft: tuple[str, dict[str, Any], Path]) -> None:
    """What was verified before the refusal counts as received; a client that asks first sends the bad file alone."""
    _, drafted, directory = draft
    urls = {u["path"]: u["url"] for u in drafted["uploads"]}
    content = (directory / WEIGHTS).read_bytes()
    send(world.acme, {"uploads": [u for u in drafted["uploads"] if u["path"] != WEIGHTS]}, directory)
    append(world.acme, urls[WEIGHTS], 0, b"?" + content[1:])
    refused(world.acme.post(f"/uploads/{drafted['id']}/publish"), 422, "upload.digest")
    sizes = {path.name: path.stat().st_size for path in directory.iterdir()}
    received = {u["path"]: u["received"] for u in world.acme.get(f"/uploads/{drafted['id']}").json()["uploads"]}
    assert received == {**sizes, WEIGHTS: 0}
    for path, url in urls.items():
        assert world.acme.head(url).headers["Upload-Offset"] == str(received[path])
    problem = refused(append(world.acme, urls["adapter_config.json"], 0, b"{"), 409, "upload.offset")
    assert problem["data"]["received"] == sizes["adapter_config.json"]
    assert append(world.acme, urls[WEIGHTS], 0, content).status_code == 204
    published = world.acme.post(f"/uploads/{drafted['id']}/publish").json()
    assert published["state"] == "published"
    for path in sizes:
        assert world.acme.get(f"/patches/{published['patch']}/versions/1/files/{path}").content == (directory / path).read_bytes()


def test_refused_content_is_refused_again_without_sending(world: World, another: Callable[[], Path]) -> None:
    """A patch that does not fit stays refused for that reason; mended, only the file that changed is sent."""
    caller, directory = _somebody(world), another()  # open drafts count against an owner's quota
    patch = caller.patch("solo", unique("patch"))
    config = directory / "adapter_config.json"
    good = config.read_text()
    config.write_text(good.replace('"LORA"', '"LOHA"'))
    assert config.read_text() != good
    drafted = caller.draft(patch, directory)
    send(caller, drafted, directory)
    first = caller.post(f"/uploads/{drafted['id']}/publish")
    again = caller.post(f"/uploads/{drafted['id']}/publish")
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert first.status_code == 422
    config.write_text(good)
    mended = caller.draft(patch, directory)
    assert {u["path"] for u in mended["uploads"] if u["received"] < u["size"]} == {config.name}
    append(caller, next(u["url"] for u in mended["uploads"] if u["path"] == config.name), 0, good.encode())
    assert caller.post(f"/uploads/{mended['id']}/publish").json()["number"] == 1


def test_bytes_of_others_are_not_taken_for_sent(world: World, another: Callable[[], Path]) -> None:
    """Who knows the digest of somebody's file has not thereby sent it, nor learns that it is there."""
    directory, somebody = another(), _somebody(world)
    world.acme.publish(world.patch(), directory)
    for owner, caller in (("solo", somebody), ("acme", world.acme)):  # another patch of the same owner is another's as well
        drafted = caller.draft(caller.patch(owner, unique("patch")), directory)
        assert {u["received"] for u in drafted["uploads"]} == {0}
        refused(caller.post(f"/uploads/{drafted['id']}/publish"), 409, "upload.incomplete")


def _somebody(world: World) -> Caller:
    return world.service.caller("solo", "read", "publish")
