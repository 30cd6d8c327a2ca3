"""Stock clients push to a registry whose bytes lie in S3: by Xet through the registry, by LFS in parts straight to the store."""

import base64
import hashlib
import json
import shutil
from pathlib import Path

import httpx
import pytest

from tests.support.cloud import Cloud
from tests.support.files import write_adapter_config
from tests.support.hub_pushes import Registry, ready, spoiled
from tests.support.sparse_models import large_patch, large_release

MIB = 2**20


@pytest.fixture(scope="module")
def hub(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """The service in S3, as stock clients see it; family big has v1, two layers of 25 MB, and is seen by everybody."""
    root = tmp_path_factory.mktemp("pushes")
    large_release(root / "v1", 1, content=1)
    cloud.s3.upload(root / "v1", cloud.bucket, "upstream/big")
    cloud.run("release", "add", "big", "v1", "--from", f"{cloud.upstream}/big", "--wait")
    cloud.run("family", "grant", "big", "*")
    return Registry(cloud.service, root, root / "home")


@pytest.fixture(scope="module")
def large(hub: Registry) -> Path:
    """A patch of 20 MB, which takes several pieces and more than one part."""
    large_patch(hub.models / "patch", 1, 640, seed=3)
    write_adapter_config(
        hub.models / "patch", r=640, lora_alpha=640, target_modules=["gate_proj", "up_proj", "down_proj"],
        base_model_name_or_path="base/big", revision="v1",
    )  # fmt: skip
    return hub.models / "patch"


@pytest.mark.parametrize("without_xet", [False, True])
def test_a_large_patch(hub: Registry, large: Path, tmp_path: Path, without_xet: bool) -> None:
    """The same bytes as were sent are what is there, whichever way they took."""
    name = hub.name()
    folder = tmp_path / "out"
    shutil.copytree(large, folder)
    (folder / "README.md").write_text(f"# {name}")
    variables = {"HF_HUB_DISABLE_XET": "1"} if without_xet else {}
    oid, path = hub.python(f"""
api.create_repo({name!r})
tell(api.upload_folder(repo_id={name!r}, folder_path={str(folder)!r}).oid)
tell(api.hf_hub_download({name!r}, "adapter_model.safetensors"))
""", **variables).told  # fmt: skip
    assert len(oid) == 40
    weights = (large / "adapter_model.safetensors").read_bytes()
    assert len(weights) > 16 * MIB
    assert Path(path).read_bytes() == weights
    assert [v["trained_on"] for v in hub.versions(name)] == ["v1"]


def test_parts_go_to_the_store_and_are_believed_when_they_were_read(hub: Registry, large: Path) -> None:
    """LFS: two parts, put together by what the store says; wrong bytes are found when a commit names them."""
    name, weights = hub.name(), (large / "adapter_model.safetensors").read_bytes()
    oid = hashlib.sha256(weights).hexdigest()
    with hub.caller() as acme:
        owner, short = name.split("/")
        assert acme.post("/api/repos/create", json={"name": short, "organization": owner}).status_code == 200
        batch = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [{"oid": oid, "size": len(weights)}]}

        def ask() -> dict[str, dict[str, dict[str, str]]]:
            answer = acme.post(f"/{name}.git/info/lfs/objects/batch", json=batch).json()
            assert answer["transfer"] == "multipart"
            return dict(answer["objects"][0].get("actions", {}))

        def commit(line: dict[str, object]) -> httpx.Response:
            lines = [{"key": "header", "value": {"summary": "x"}}, line]
            return acme.post(f"/api/models/{name}/commit/main", content="\n".join(map(json.dumps, lines)))

        for sent in (weights[::-1], weights):
            upload = ask()["upload"]
            step = int(upload["header"]["chunk_size"])
            early = acme.post(upload["href"], json={"oid": oid, "parts": []})
            assert (early.status_code, early.json()["code"]) == (409, "upload.incomplete")
            for number in range(1, -(-len(weights) // step) + 1):
                part = sent[(number - 1) * step : number * step]
                assert httpx.put(upload["header"][str(number)], content=part).is_success  # no header of ours
            assert httpx.post(upload["href"], json={"oid": oid, "parts": []}).status_code == 200
            content = base64.b64encode((large / "adapter_config.json").read_bytes()).decode()
            assert commit({"key": "file", "value": {"path": "adapter_config.json", "content": content}}).status_code == 200
            made = commit({"key": "lfsFile", "value": {"path": "adapter_model.safetensors", "oid": oid, "size": len(weights)}})
            if sent is not weights:
                assert (made.status_code, made.json()["code"]) == (422, "upload.digest")
                assert hub.versions(name) == []
        assert made.status_code == 200, made.text
    assert len(hub.versions(name)) == 1


def test_what_is_invalid_leaves_nothing(hub: Registry, large: Path, tmp_path: Path) -> None:
    """Neither staged objects nor a version."""
    name, folder = hub.name(), tmp_path / "bad"
    shutil.copytree(large, folder)
    (refused,) = hub.python(f"""
api.create_repo({name!r})
said(api.upload_folder, repo_id={name!r}, folder_path={str(spoiled(folder))!r})
""").told
    assert refused["status"] == 422
    assert hub.versions(name) == []


def test_a_base_in_s3(hub: Registry) -> None:
    """Pushed, read from the store by a job, and ready."""
    hub.hf("upload", "base/pushed", hub.models / "v1", "--revision", "v3", token=hub.service.token).good()
    row = ready(hub.service, "pushed", "v3")
    assert (row["state"], row["copied"]) == ("ready", True), row
