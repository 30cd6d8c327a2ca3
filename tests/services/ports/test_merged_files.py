"""Merged files: the bytes of `core.local.merge`, named by ETag and digest, computed while they are read."""

import base64
import hashlib
import json
from pathlib import Path

import pytest

from app.core.offline import merge
from app.core.recipe import Recipe
from tests.support.fixtures import World
from tests.support.merging import digests
from tests.support.registry import refused

RECIPES = [Recipe(), Recipe(dtype="float32")]
SHARD = "model-00001-of-00003.safetensors"


@pytest.mark.parametrize("recipe", RECIPES, ids=["as the release", "float32"])
def test_merged_files_equal_the_offline_merge(world: World, tmp_path: Path, recipe: Recipe) -> None:
    """The list and every byte of every file agree with `portllm merge`."""
    merge(world.models.v2, world.models.patch, tmp_path / "out", recipe)
    expected = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    port = world.acme.port("acme/tone", "v2", recipe={"dtype": recipe.dtype})
    listing = world.reader.get(f"/ports/{port['id']}/files").json()
    assert (listing["port"], listing["fingerprint"]) == (port["id"], port["fingerprint"])
    assert {f["path"]: f["size"] for f in listing["files"]} == {path: len(content) for path, content in expected.items()}
    assert listing["total_bytes"] == sum(map(len, expected.values()))
    for file in listing["files"]:
        read = world.reader.get(f"/ports/{port['id']}/files/{file['path']}")
        assert read.status_code == 200
        assert read.content == expected[file["path"]]
        assert read.headers["Content-Length"] == str(file["size"])
        assert read.headers["ETag"] == f'"{file["etag"]}"'
        assert read.headers["Accept-Ranges"] == "bytes"
        assert read.headers["X-Content-Type-Options"] == "nosniff"
        assert read.headers["Content-Security-Policy"].startswith("sandbox")  # an HTML page of a stranger runs nothing here
        assert "no-transform" in read.headers["Cache-Control"]
    # In float32 the configuration and the index have to change as well; a shard that the patch does not touch is carried.
    changed = {path for path, content in expected.items() if content != (world.models.v2 / path).read_bytes()}
    assert {f["path"] for f in listing["files"] if f["computed"]} == changed
    assert ("config.json" in changed) == (recipe.dtype is not None)
    assert json.loads(expected["config.json"])["dtype"] == (recipe.dtype or "bfloat16")


def test_etag_is_the_digest_or_the_recipe(world: World) -> None:
    """A carried file is named by its sha256; a computed one by 40 hex digits of its recipe, never 64."""
    for file in world.acme.get(f"/ports/{world.port['id']}/files").json()["files"]:
        read = world.acme.get(f"/ports/{world.port['id']}/files/{file['path']}")
        assert set(file["etag"]) <= set("0123456789abcdef")
        if file["computed"]:
            assert (len(file["etag"]), file["sha256"]) == (40, None)
            assert "Repr-Digest" not in read.headers
        else:
            assert file["etag"] == file["sha256"] == hashlib.sha256(read.content).hexdigest()
            digest = base64.b64encode(hashlib.sha256(read.content).digest()).decode()
            assert read.headers["Repr-Digest"] == f"sha-256=:{digest}:"


def test_media_type_follows_the_file_name(world: World) -> None:
    """JSON is JSON; weights are bytes."""
    kinds = {p: world.acme.head(f"/ports/{world.port['id']}/files/{p}").headers["content-type"] for p in ("config.json", SHARD)}
    assert kinds == {"config.json": "application/json", SHARD: "application/octet-stream"}


def test_read_with_a_known_etag_is_304(world: World) -> None:
    """A client that has the file is told so, without a byte."""
    url = f"/ports/{world.port['id']}/files/{SHARD}"
    etag = world.acme.head(url).headers["ETag"]
    for header in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        for method in ("GET", "HEAD"):
            unchanged = world.acme(method, url, headers={"If-None-Match": header})
            assert unchanged.status_code == 304
            assert unchanged.content == b""
            assert unchanged.headers["ETag"] == etag
    changed = world.acme.get(url, {"If-None-Match": '"other"'})
    assert changed.status_code == 200
    # It counts before the range does.
    assert world.acme.get(url, {"If-None-Match": etag, "Range": "bytes=0-1"}).status_code == 304


def test_head_equals_get_without_bytes(world: World) -> None:
    """HEAD answers what GET would, without the bytes, and computes none."""
    for path in (SHARD, "config.json"):
        url = f"/ports/{world.port['id']}/files/{path}"
        head, get = world.acme.head(url), world.acme.get(url)
        assert (head.status_code, head.content) == (200, b"")
        for header in ("Content-Length", "ETag", "Accept-Ranges", "Content-Type", "Cache-Control"):
            assert head.headers[header] == get.headers[header]


@pytest.mark.parametrize(
    "path",
    ["model.safetensors", "nope", "../config.json", "%2e%2e/config.json", "config.json/", "CONFIG.JSON", "adapter_config.json"],
)
def test_unknown_path_is_404(world: World, path: str) -> None:
    """Only the files of the list exist, whatever the path looks like."""
    for method in ("GET", "HEAD"):
        response = world.acme(method, f"/ports/{world.port['id']}/files/{path}")
        assert response.status_code == 404
        if method == "GET" and ".." not in path:
            refused(response, 404, "output.unknown_file")


def test_digest_job_equals_the_offline_merge(world: World) -> None:
    """The digests of computed files are made once, by a job, and agree with the bytes and with the offline merge."""
    patch = world.patch()
    world.acme.publish(patch, world.models.patch)
    port = world.acme.port(patch, "v2")
    asked = world.acme.post(f"/ports/{port['id']}/digest")
    assert asked.status_code == 202
    job = f"acme:digest:{port['id']}-0"
    assert asked.json() == {"port": port["id"], "digests": None, "job": job}
    assert asked.headers["Location"] == f"/api/v1/jobs/{job}"
    world.service.run_jobs()
    known = world.acme.post(f"/ports/{port['id']}/digest")
    assert (known.status_code, known.json()["job"]) == (200, None)
    assert world.acme.get(f"/ports/{port['id']}").json()["digested"]
    for file in world.acme.get(f"/ports/{port['id']}/files").json()["files"]:
        read = world.acme.get(f"/ports/{port['id']}/files/{file['path']}")
        assert hashlib.sha256(read.content).hexdigest() == file["sha256"]
        assert "Repr-Digest" in read.headers
        if file["computed"]:
            assert known.json()["digests"][file["path"]] == file["sha256"]
            assert len(file["etag"]) == 40
    # The figure is exact now; for so small a model it was before.
    assert world.acme.get(f"/ports/{port['id']}").json()["fidelity"]["sampled"] is False
    events = world.acme.get("/events", limit=500).json()["items"]
    assert [e["kind"] for e in events if e["subject"] == port["id"]] == ["port.ready", "port.digested"]


def test_digest_job_reads_a_copied_release(world: World, tmp_path: Path) -> None:
    """The job finds a release's copies as it finds a directory."""
    release = world.service.release("llama", "v2-copied", world.models.v2, copy=True)
    assert release["copied"]
    port = world.acme.port("acme/tone", "v2-copied")
    assert world.acme.post(f"/ports/{port['id']}/digest").status_code == 202
    world.service.run_jobs()
    merge(world.models.v2, world.models.patch, tmp_path / "out")
    expected = digests(tmp_path / "out")
    listing = world.acme.get(f"/ports/{port['id']}/files").json()
    assert {f["path"]: f["sha256"] for f in listing["files"]} == expected
    # The same manifest, patch and recipe: the same bytes by the same name.
    assert listing["fingerprint"] == world.port["fingerprint"]
