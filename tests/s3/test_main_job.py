"""The main job where every byte lies in S3: the same bytes as from local disks, and nothing believed that was not read."""

import json
from pathlib import Path

import httpx
import pytest

from app.core.offline import merge
from tests.support.cloud import Cloud
from tests.support.merging import digests
from tests.support.service_process import run


@pytest.fixture(scope="module")
def merged(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the local merge of v2 and the patch."""
    out = tmp_path_factory.mktemp("merged") / "out"
    merge(models / "v2", models / "patch", out)
    return digests(out)


def test_port_and_pull_from_s3(cloud: Cloud, merged: dict[str, str], tmp_path: Path) -> None:
    """A release by reference to S3 merges to the bytes of the local merge; nothing of it was copied."""
    assert json.loads(cloud.run("port", "cloud/tone", "--to", "v2", "--json"))["state"] == "ready"
    pulled = json.loads(cloud.run("pull", "cloud/tone", tmp_path / "out", "--on", "v2", "--json"))
    assert pulled["verified"]
    assert digests(tmp_path / "out") == merged
    sizes = [size for key, size in cloud.s3.objects(cloud.bucket, "registry/sha256/").items()]
    assert sum(sizes) < sum(p.stat().st_size for p in (cloud.models / "v2").iterdir()), "only manifests and the patch are kept"
    assert not cloud.s3.objects(cloud.bucket, "registry/staging/")


def test_release_copied_from_s3(cloud: Cloud, merged: dict[str, str], tmp_path: Path) -> None:
    """With --copy it is kept, and goes on without its source."""
    cloud.s3.upload(cloud.models / "v2", cloud.bucket, "upstream/moved")
    cloud.run("release", "add", "cloud", "copied", "--from", f"{cloud.upstream}/moved", "--copy", "--wait")
    for key in cloud.s3.objects(cloud.bucket, "upstream/moved/"):
        cloud.s3.client().delete_object(Bucket=cloud.bucket, Key=key)
    cloud.run("port", "cloud/tone", "--to", "copied")
    cloud.run("pull", "cloud/tone", tmp_path / "out", "--on", "copied")
    assert digests(tmp_path / "out") == merged


def test_changed_object_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    """An object that is not the one that was registered is noticed at the next read, and not served."""
    cloud.s3.upload(cloud.models / "v2", cloud.bucket, "upstream/changing")
    cloud.run("release", "add", "cloud", "changing", "--from", f"{cloud.upstream}/changing", "--wait")
    port = json.loads(cloud.run("port", "cloud/tone", "--to", "changing", "--json"))
    shard = min(k for k in cloud.s3.objects(cloud.bucket, "upstream/changing/") if k.endswith(".safetensors"))
    body = bytearray(cloud.s3.client().get_object(Bucket=cloud.bucket, Key=shard)["Body"].read())
    body[-1] ^= 1
    cloud.s3.client().put_object(Bucket=cloud.bucket, Key=shard, Body=bytes(body))
    with cloud.service.client() as client:
        answer = client.get(f"/ports/{port['id']}/files/{shard.rpartition('/')[2]}")
    assert (answer.status_code, answer.json()["code"]) == (409, "checkpoint.changed")
    assert "[checkpoint.changed]" in cloud.refused("pull", "cloud/tone", tmp_path / "out", "--on", "changing")
    assert not (tmp_path / "out").exists()


def test_places_that_nobody_listed(cloud: Cloud) -> None:
    """Other buckets and neighbours of what an admin listed are refused before anything is read."""
    for address, code in (
        (f"s3://{cloud.bucket}/registry", "place.not_allowed"), (f"{cloud.upstream}2/v1", "place.not_allowed"),
        ("s3://other-bucket/v1", "place.not_allowed"), (f"{cloud.upstream}/../registry", "place.invalid"),
    ):  # fmt: skip
        assert f"[{code}]" in cloud.refused("release", "add", "cloud", "r9", "--from", address)
    assert "[checkpoint.missing_file]" in cloud.refused(
        "release", "add", "cloud", "empty", "--from", f"{cloud.upstream}/none", "--wait"
    )


def test_the_patch_as_it_was_published(cloud: Cloud, models: Path, tmp_path: Path) -> None:
    """Fetched from S3 itself by an address for an hour, or through the registry; the token goes nowhere else."""
    cloud.run("patch", "pull", "cloud/tone", tmp_path / "patch")
    kept = {p.name for p in (tmp_path / "patch").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= kept
    assert digests(tmp_path / "patch") == {name: d for name, d in digests(models / "patch").items() if name in kept}
    path = "/patches/cloud/tone/versions/1/files/adapter_model.safetensors"
    with cloud.service.client() as client:
        moved = client.get(path)
        assert moved.status_code == 307
        assert moved.headers["location"].startswith(cloud.s3.url)
        expected = (models / "patch/adapter_model.safetensors").read_bytes()
        assert httpx.get(moved.headers["location"]).content == expected
        assert client.get(path, params={"redirect": "false"}).content == expected
        part = client.get(path, params={"redirect": "false"}, headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, expected[10:20])
        assert client.head(path).headers["content-length"] == str(len(expected))
        assert client.get(path, headers={"If-None-Match": moved.headers["etag"]}).status_code == 304
        missing = client.get("/patches/cloud/tone/versions/1/files/nope")
        assert (missing.status_code, missing.json()["code"]) == (404, "version.file")


def test_materialise_to_s3(cloud: Cloud, merged: dict[str, str], tmp_path: Path) -> None:
    """The files at their place are those of the local merge; again is the same; somebody else's place is left alone."""
    cloud.run("port", "cloud/tone", "--to", "v2")
    target = f"{cloud.exports}/tone-v2"
    row = json.loads(cloud.run("materialise", "cloud/tone", "--on", "v2", "--to", target, "--json"))
    assert row["state"] == "done"
    assert {f["path"]: f["size"] for f in row["result"]["files"]} == {
        key.removeprefix("exports/tone-v2/"): size for key, size in cloud.s3.objects(cloud.bucket, "exports/tone-v2/").items()
    }
    for key in cloud.s3.objects(cloud.bucket, "exports/tone-v2/"):
        file = tmp_path / "out" / key.removeprefix("exports/tone-v2/")
        file.parent.mkdir(parents=True, exist_ok=True)
        cloud.s3.client().download_file(cloud.bucket, key, str(file))
    assert digests(tmp_path / "out") == merged
    assert json.loads(cloud.run("materialise", "cloud/tone", "--on", "v2", "--to", target, "--json")) == row
    assert json.loads(cloud.run("show", row["port"], "--json"))["materialisations"] == [row]
    cloud.s3.client().put_object(Bucket=cloud.bucket, Key="exports/taken/notes.txt", Body=b"mine")
    ended = run("materialise", "cloud/tone", "--on", "v2", "--to", f"{cloud.exports}/taken", **cloud.service.variables())
    assert ended.returncode == 1
    assert "[output.exists]" in ended.stderr
    assert cloud.s3.objects(cloud.bucket, "exports/taken/") == {"exports/taken/notes.txt": 4}
    assert "[place.not_allowed]" in cloud.refused("materialise", "cloud/tone", "--on", "v2", "--to", f"s3://{cloud.bucket}/else")
    with cloud.service.client() as client:
        listed = client.get(f"/ports/{row['port']}/materialisations").json()["items"]
        assert [m["state"] for m in listed] == ["failed", "done"]
        kinds = [e["kind"] for e in client.get("/events", params={"limit": 500}).json()["items"] if e["subject"] == row["id"]]
        assert kinds == ["materialisation.queued", "materialisation.done"]
        assert client.get("/materialisations/mat_none").json()["code"] == "materialisation.unknown"
