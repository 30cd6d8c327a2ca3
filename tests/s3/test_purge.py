"""`portllm purge` against a service that runs its own jobs: erased, proven, and found again where somebody puts it back."""

import json
from pathlib import Path

import httpx

from tests.support.cloud import Cloud
from tests.support.service_process import invoke
from tests.support.uploads import with_card


def test_erased_and_proven(cloud: Cloud, models: Path, tmp_path: Path) -> None:
    """An address of the store that was handed out before leads to nothing; the proof fails when an object is put back."""
    patch = with_card(models / "patch", tmp_path / "patch", "a card of its own")
    cloud.run("patch", "push", "cloud/doomed", patch, "--family", "cloud", "--trained-on", "v1")
    cloud.run("port", "cloud/doomed", "--to", "v2")
    target = f"{cloud.exports}/doomed"
    cloud.run("materialise", "cloud/doomed", "--on", "v2", "--to", target)
    with cloud.service.client() as client:
        version = client.get("/patches/cloud/doomed/versions/1").json()
        handed_out = client.get("/patches/cloud/doomed/versions/1/files/README.md").headers["Location"]
    assert httpx.get(handed_out).text == "a card of its own"
    assert "[client.reason]" in cloud.refused("purge", "cloud/doomed@1", "--yes")
    assert "[client.name]" in cloud.refused("purge", "cloud/doomed", "--reason", "asked", "--yes")

    said = json.loads(cloud.run("purge", "cloud/doomed@1", "--reason", "asked", "--yes", "--json"))

    assert (said["state"], said["erasure"]["state"]) == ("purged", "done")
    kept = {blob["digest"]: blob["kept_for"] for blob in said["erasure"]["blobs"]}
    for file in version["files"]:  # cloud/tone has the same weights and configuration
        assert kept[file["sha256"]] == (None if file["path"] == "README.md" else "cloud/tone@1")
    assert httpx.get(handed_out).status_code == 404
    assert cloud.s3.objects(cloud.bucket, "exports/doomed/") == {}
    assert "[version.purged]" in cloud.refused("patch", "pull", "cloud/doomed", tmp_path / "out", "--version", "1")
    assert "[version.purged]" in cloud.refused("patch", "push", "cloud/doomed", patch, "--family", "cloud", "--trained-on", "v1")
    assert "is purged" in cloud.run("purge", "--verify", "cloud/doomed@1")
    cloud.run("port", "cloud/tone", "--to", "v1")
    cloud.run("pull", "cloud/tone", tmp_path / "tone", "--on", "v1")  # what has the same bytes is read as before

    card = next(file["sha256"] for file in version["files"] if file["path"] == "README.md")
    cloud.s3.client().put_object(Bucket=cloud.bucket, Key=f"registry/sha256/{card[:2]}/{card}", Body=b"a card of its own")
    ended = invoke("purge", "--verify", "cloud/doomed@1", "--json", **cloud.service.variables())
    assert (ended.exit_code, json.loads(ended.stdout)["state"]) == (1, "pending")
    cloud.run("purge", "cloud/doomed@1", "--reason", "again", "--yes")
    cloud.run("purge", "--verify", "cloud/doomed@1")
