"""Bytes that clients send straight to S3: resumable, and believed only when the registry has read them itself."""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.blobs.s3.target import S3Target
from tests.support.cloud import Cloud
from tests.support.files import write_adapter_config
from tests.support.merging import digests
from tests.support.sparse_models import LAYER_BYTES, large_patch, large_release

MIB = 2**20


@pytest.fixture(scope="module")
def large(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Family large with v1 in S3: two layers of 25 MB in one file; a patch of 20 MB on the first of them."""
    root = tmp_path_factory.mktemp("large")
    large_release(root / "v1", 2, content=1)
    cloud.s3.upload(root / "v1", cloud.bucket, "upstream/large")
    cloud.run("release", "add", "large", "v1", "--from", f"{cloud.upstream}/large", "--wait")
    large_patch(root / "patch", 1, 640, seed=3)
    config = json.loads((root / "patch/adapter_config.json").read_text())
    write_adapter_config(root / "patch", **{**config, "layers_to_transform": [0]})
    return root


def _draft(client: httpx.Client, name: str, directory: Path, family: str, trained_on: str) -> dict[str, Any]:
    owner, patch = name.split("/")
    client.post("/patches", json={"owner": owner, "name": patch, "family": family}).raise_for_status()
    files = [
        {"path": p.name, "size": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
        for p in sorted(directory.iterdir())
    ]
    body = {"trained_on": trained_on, "files": files}
    return dict(client.post(f"/patches/{name}/versions", json=body).raise_for_status().json())


def test_a_large_patch_is_sent_in_parts_and_taken_up_again(cloud: Cloud, large: Path) -> None:
    """What the store has is not asked for again; nothing is published before all of it is there."""
    weights = (large / "patch/adapter_model.safetensors").read_bytes()
    assert len(weights) > 16 * MIB
    with cloud.service.client() as client:
        draft = _draft(client, "large/parts", large / "patch", "large", "v1")
        assert all(upload["direct"] for upload in draft["uploads"])
        direct = f"/uploads/{draft['id']}/direct"
        first = client.post(direct, json={"path": "adapter_model.safetensors"}).json()
        assert [p["number"] for p in first["parts"]] == [1, 2]
        assert sum(p["size"] for p in first["parts"]) == len(weights)
        part = first["parts"][0]
        assert httpx.put(part["url"], content=weights[part["offset"] : part["offset"] + part["size"]]).is_success
        again = client.post(direct, json={"path": "adapter_model.safetensors"}).json()
        assert [p["number"] for p in again["parts"]] == [2]
        early = client.post(f"/uploads/{draft['id']}/publish")
        assert (early.status_code, early.json()["code"]) == (409, "upload.incomplete")
        shown = {u["path"]: u["received"] for u in client.get(f"/uploads/{draft['id']}").json()["uploads"]}
        assert shown["adapter_model.safetensors"] == part["size"]
        unknown = client.post(direct, json={"path": "nope"})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "upload.file")
    # The command line begins a draft of its own and sends it all.
    assert "version 1" in cloud.run("patch", "push", "large/tone", large / "patch", "--family", "large", "--trained-on", "v1")
    with cloud.service.client() as client:
        found = client.get("/patches/large/tone/versions/1/files/adapter_model.safetensors", follow_redirects=True)
    assert found.content == weights


def test_wrong_bytes_are_refused(cloud: Cloud, models: Path) -> None:
    """S3 took them; we read them, and they are not what was announced. They alone are dropped, and can be sent again."""
    with cloud.service.client() as client:
        draft = _draft(client, "cloud/wrong", models / "patch", "cloud", "v1")
        for attempt in ("wrong", "right"):
            missing = set()
            for upload in draft["uploads"]:
                content = (models / "patch" / upload["path"]).read_bytes()
                asked = client.post(f"/uploads/{draft['id']}/direct", json={"path": upload["path"]}).json()
                missing |= {upload["path"]} if asked["parts"] else set()
                for part in asked["parts"]:
                    sent = content[part["offset"] : part["offset"] + part["size"]]
                    wrong = attempt == "wrong" and upload["path"].endswith(".safetensors")
                    assert httpx.put(part["url"], content=secrets.token_bytes(len(sent)) if wrong else sent).is_success
            assert attempt == "wrong" or missing == {"adapter_model.safetensors"}
            published = client.post(f"/uploads/{draft['id']}/publish")
            if attempt == "wrong":
                assert (published.status_code, published.json()["code"]) == (422, "upload.digest")
                assert client.get("/patches/cloud/wrong/versions").json()["items"] == []
        assert published.status_code == 200, published.text


def test_untouched_bytes_are_copied_inside_s3(cloud: Cloud, large: Path, tmp_path: Path) -> None:
    """One layer is computed and moved, the other never leaves the store; the object is that of the local merge."""
    cloud.run("patch", "push", "large/tone", large / "patch", "--family", "large", "--trained-on", "v1")
    cloud.run("port", "large/tone", "--to", "v1")
    row = json.loads(cloud.run("materialise", "large/tone", "--on", "v1", "--to", f"{cloud.exports}/large", "--json"))
    assert row["result"]["bytes_copied"] > 0.9 * LAYER_BYTES
    assert 0.9 * LAYER_BYTES < row["result"]["bytes_moved"] < 1.3 * LAYER_BYTES
    with cloud.service.client() as client:
        fingerprint = client.get(f"/ports/{row['port']}").json()["fingerprint"]
    # What an attempt that takes it over would find, and count as it was written.
    found = S3Target(cloud.s3.client(), cloud.bucket, "exports/large", fingerprint)
    assert found.present({f["path"]: f["size"] for f in row["result"]["files"]}) == {
        f["path"]: f["copied"] for f in row["result"]["files"]
    }
    cloud.s3.client().download_file(cloud.bucket, "exports/large/model.safetensors", str(tmp_path / "model.safetensors"))
    cloud.run("merge", large / "v1", large / "patch", tmp_path / "out")
    assert digests(tmp_path)["model.safetensors"] == digests(tmp_path / "out")["model.safetensors"]
    assert not [key for key in cloud.s3.multiparts(cloud.bucket) if key.startswith("exports/")]


def test_a_cancelled_draft_is_swept(cloud: Cloud, models: Path) -> None:
    """Parts of a draft that is given up go with it: nothing of it stays in the bucket."""
    with cloud.service.client() as client:
        draft = _draft(client, "cloud/abandoned", models / "patch", "cloud", "v1")
        client.post(f"/uploads/{draft['id']}/direct", json={"path": "adapter_model.safetensors"}).raise_for_status()
    assert any(draft["id"] in key for key in cloud.s3.multiparts(cloud.bucket))
    from app.blobs.s3.store import S3Blobs

    with pytest.MonkeyPatch.context() as patch:
        for name, value in cloud.s3.environment().items():
            patch.setenv(name, value)
        store = S3Blobs(f"s3://{cloud.bucket}/registry")
        assert draft["id"] in dict(store.uploads())
        store.discard(draft["id"])
    assert not any(draft["id"] in key for key in cloud.s3.multiparts(cloud.bucket))
