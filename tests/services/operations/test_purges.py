"""Purging: what is erased is nowhere, what others have too stays, and the tombstone says what is true.

On SQLite with a directory, and on PostgreSQL with S3; merged models are written to S3 in both.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.db.base import now
from app.db.pushes import PushedObject
from app.domain.ids import new_id
from app.domain.principal import ROLES
from app.jobs import child
from app.jobs.tasks.context import StartReport
from app.services.operations import erasure
from app.services.operations.maintenance import Maintenance
from app.services.uploads import pushed_objects
from tests.support.purge_sites import WHY, PurgeSite, place
from tests.support.registry import refused, unique
from tests.support.uploads import append, with_card

__all__ = ["place"]


def test_nothing_is_left(place: PurgeSite) -> None:
    """Blobs, written copies, parts, remembered answers: gone. Every way to the bytes says so; the tombstone keeps its facts."""
    admin, operator = place.service.admin, place.operator
    directory = place.fresh_patch()
    patch = place.published(directory)
    before = admin.get(f"/patches/{patch}/versions/1").json()
    assert admin("PUT", f"/patches/{patch}/aliases/prod", json={"version": "1"}).status_code == 200
    key = {"Idempotency-Key": unique("key")}
    wish = {"patch": patch, "release": "v2"}
    port = admin.post("/ports", wish, key).json()
    assert admin.get(f"/ports/{port['id']}/files/model.safetensors.index.json").status_code == 200
    held = place.service.admin.get(f"/ports/{port['id']}/files").json()["files"]
    row = place.written(port["id"])
    assert row["state"] == "done"
    assert place.objects(row["target"])
    client = place.s3.client()
    left = {"Bucket": place.bucket, "Key": f"{row['target'].removeprefix(f's3://{place.bucket}/')}/left.safetensors"}
    client.create_multipart_upload(**left)

    purged = place.purge(patch)

    assert (purged["state"], purged["erasure"]["state"]) == ("purged", "done"), purged
    assert {blob["digest"] for blob in purged["erasure"]["blobs"]} == {file["sha256"] for file in before["files"]}
    assert all(blob["removed"] for blob in purged["erasure"]["blobs"])
    assert [(copy["target"], copy["removed"]) for copy in purged["erasure"]["copies"]] == [(row["target"], True)]
    assert not any(place.is_there(file["sha256"]) for file in before["files"])
    assert place.objects(row["target"]) == {}
    assert left["Key"] not in place.s3.multiparts(place.bucket)

    for response in (
        admin.get(f"/patches/{patch}/versions/1/files/adapter_model.safetensors"),
        admin.get(f"/ports/{port['id']}/files"),
        admin.get(f"/ports/{port['id']}/files/{held[0]['path']}", {"If-None-Match": f'"{held[0]["etag"]}"'}),
        admin.post("/ports", wish | {"version": 1}),
        admin.post("/ports", wish | {"version": "prod"}, key | {"Idempotency-Key": unique("key")}),
        admin.post("/ports/check", wish | {"version": "1"}),
        admin.post(f"/ports/{port['id']}/digest"),
        admin.post(f"/ports/{port['id']}/materialise", {"to": row["target"]}),
        admin("PUT", f"/patches/{patch}/aliases/next", json={"version": "1"}),
    ):
        assert refused(response, 410, "version.purged")["data"]["reason"] == WHY["reason"]
    refused(admin.post("/ports", wish, key), 409, "version.none")  # the answer that was remembered is not given again
    assert admin.get(f"/ports/{port['id']}").json()["state"] == "purged"
    assert operator.get(f"/materialisations/{row['id']}").json()["state"] == "purged"

    kept = admin.get(f"/patches/{patch}/versions/1").json()
    assert {name: kept[name] for name in ("number", "digest", "total_bytes", "files")} == {
        name: before[name] for name in ("number", "digest", "total_bytes", "files")
    }
    assert kept["facts"] == {name: before["facts"][name] for name in ("rank", "alpha", "rslora", "modules", "parameters")}
    assert (kept["purge_reason"], kept["purged_by"].split()[0]) == (WHY["reason"], "acme")
    assert place.purge(patch) | {"erasure": None} == kept | {"erasure": None}
    assert operator.get(f"/patches/{patch}/versions/1/erasure").json()["state"] == "done"
    kinds = place.service.rows("SELECT kind FROM events WHERE subject = :s AND kind LIKE 'version.%'", s=f"{patch}@1")
    assert sorted(kind for (kind,) in kinds) == ["version.erased", "version.published", "version.purged"]
    troubles = [trouble for trouble in place.troubles() if patch in trouble.subject]
    assert [(trouble.code, trouble.subject) for trouble in troubles] == [("alias.purged", f"{patch}@prod")]


def test_the_same_files_again(place: PurgeSite) -> None:
    """Not for this owner, in whichever patch; other files and other owners are another matter."""
    directory = place.fresh_patch()
    patch = place.published(directory)
    place.purge(patch)
    other = place.service.admin.patch("acme", unique("patch"))
    for name in (patch, other):
        files = place.service.admin.get(f"/patches/{patch}/versions/1").json()["files"]
        refused(place.operator.post(f"/patches/{name}/versions", {"trained_on": "v1", "files": files}), 410, "version.purged")
    assert place.service.admin.publish(place.service.admin.patch("rival", unique("patch")), directory)["number"] == 1


def test_what_others_have_too(place: PurgeSite, tmp_path: Path) -> None:
    """Bytes that another version has stay and work on; its owner's versions are named, nobody else's."""
    directory = place.fresh_patch()
    patch, rival = place.published(directory), unique("rival")
    second = place.service.admin.publish(patch, with_card(directory, tmp_path / "card", "a card"))
    theirs = place.published(directory, owner=rival)
    theirs_port = place.service.admin.port(theirs, "v2")["id"]
    ours_port = place.service.admin.port(patch, "v2", version=1)["id"]
    shared = place.written(ours_port)["target"]
    assert place.written(theirs_port, shared)["state"] == "done"  # the same recipe: the same bytes, found to be there

    report = place.purge(patch)["erasure"]

    assert report["state"] == "done"
    card = next(
        f["sha256"] for f in place.operator.get(f"/patches/{patch}/versions/1").json()["files"] if f["path"] == "README.md"
    )
    for blob in report["blobs"]:
        ours = "" if blob["digest"] == card else f", {patch}@2"
        assert blob["kept_for"] == f"a version of another owner{ours}"
        assert place.is_there(blob["digest"])
    assert "another version" in report["copies"][0]["kept_for"]
    assert place.objects(shared)
    assert rival not in str(report)
    for number, name, status in ((1, patch, 410), (second["number"], patch, 200), (1, theirs, 200)):
        path = f"/patches/{name}/versions/{number}/files/adapter_config.json"
        assert place.service.admin.get(path, redirect=False).status_code == status
    assert place.service.admin.get(f"/ports/{theirs_port}/files/config.json").status_code == 200


def test_a_draft_of_the_same_files(place: PurgeSite) -> None:
    """What was sent of it is dropped with the version; what was announced of others with some of its files goes on."""
    directory, admin = place.fresh_patch(), place.service.admin
    patch = place.published(directory)
    other = admin.patch("acme", unique("patch"))
    draft = admin.draft(other, directory)
    upload = draft["uploads"][0]
    content = (directory / upload["path"]).read_bytes()
    assert append(admin, upload["url"], 0, content).status_code == 204
    report = place.purge(patch)["erasure"]
    assert report["state"] == "done"
    assert all(blob["removed"] for blob in report["blobs"])
    refused(admin.post(f"/uploads/{draft['id']}/publish"), 410, "version.purged")
    assert draft["id"] not in dict(place.service.runtime.tools.blobs.uploads())


def test_bytes_that_another_owner_is_sending_keep_the_erasure_pending(place: PurgeSite) -> None:
    """Nobody has checked that it has these bytes, and it may never become a version: the erasure waits until it is gone."""
    patch, runtime, ident = place.published(), place.service.runtime, new_id("obj")
    digest = place.operator.get(f"/patches/{patch}/versions/1").json()["files"][0]["sha256"]
    with runtime.write() as uow:
        uow.add(
            PushedObject(
                id=ident, created_at=now(), owner="rival", repository="rival/tone", kind="file", digest=digest, size=1, charged=1,
                session=None, staged="put-purge", multipart="direct",
            )
        )  # fmt: skip
    report = place.purge(patch)["erasure"]
    assert report["state"] == "pending"
    assert [blob["digest"] for blob in report["blobs"] if not blob["removed"]] == [digest]
    with runtime.write() as uow:
        pushed_objects.forget(uow, [ident])
    Maintenance(runtime.read, runtime.write, runtime).run_due()
    assert not place.is_there(digest)
    assert place.operator.get(f"/patches/{patch}/versions/1/erasure").json()["state"] == "done"


def test_a_copy_that_cannot_be_reached(place: PurgeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, the erasure stays pending, and the house finishes it; meanwhile nothing can be read."""
    patch, runtime = place.published(), place.service.runtime
    port = place.service.admin.port(patch, "v2")["id"]
    target = place.written(port)["target"]
    tools = runtime.tools
    monkeypatch.setattr(runtime, "tools", replace(tools, allowed_s3=()))
    report = place.purge(patch)["erasure"]
    assert report["state"] == "pending"
    assert "does not lie below" in report["copies"][0]["problem"]
    assert all(blob["removed"] for blob in report["blobs"])
    assert place.operator.get(f"/patches/{patch}/versions/1/erasure").json()["state"] == "pending"
    refused(place.operator.get(f"/ports/{port}/files"), 410, "version.purged")
    house = Maintenance(runtime.read, runtime.write, runtime)
    house.run_due()
    assert place.objects(target)
    monkeypatch.setattr(runtime, "tools", tools)
    Maintenance(runtime.read, runtime.write, runtime).run_due()
    assert place.objects(target) == {}
    row = place.operator.get(f"/patches/{patch}/versions/1").json()
    assert (row["erasure"]["state"], row["erasure"]["copies"][0]["removed"]) == ("done", True)


def test_jobs_that_run(place: PurgeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are cancelled; what one writes meanwhile is found, because its place is looked at until it cannot go on any more."""
    patch = place.published()
    port = place.service.admin.port(patch, "v2")["id"]
    digest = place.operator.post(f"/ports/{port}/digest").json()["job"]
    target = f"s3://{place.bucket}/exports/{unique('m')}"
    row = place.operator.post(f"/ports/{port}/materialise", {"to": target}).json()
    reports: list[dict[str, Any]] = []

    def meanwhile(message: dict[str, Any], start_report: StartReport) -> dict[str, Any]:
        reports.append(place.purge(patch)["erasure"])
        return child.outcome(message, start_report)

    # As where the bytes were opened before: on a disk they can be read on until they are closed.
    with monkeypatch.context() as patched:
        patched.setattr(erasure, "_blobs", lambda *_: [])
        place.service.run_job(row["job"], "materialise", do=meanwhile)
    assert reports[0]["state"] == "pending"
    assert "still be writing" in reports[0]["waits_for"]
    assert place.objects(target), "it was written after all"
    assert place.operator.get(f"/materialisations/{row['id']}").json()["state"] == "cancelled"
    queue = place.service.runtime.tools.jobs
    assert not {digest, row["job"]} & {job for job, _, _ in queue.enqueued}
    assert place.purge(patch)["erasure"]["state"] == "pending"
    assert place.objects(target) == {}
    monkeypatch.setattr(erasure, "SETTLE", -erasure.SETTLE)
    ident = place.operator.get(f"/patches/{patch}/versions/1").json()["id"]
    settled = erasure.begin(erasure.dt.datetime.now(erasure.dt.UTC), True) | {"copies": []}
    with place.service.runtime.write() as uow:
        version = erasure._row(uow, ident)
        version.erasure = settled
    assert place.purge(patch)["erasure"]["state"] == "done"


def test_buckets_that_keep_versions(place: PurgeSite) -> None:
    """A deleted object is only hidden there: every version goes, of blobs, of what was staged, of what was written."""
    client, versions = place.s3.client(), {"Status": "Enabled"}
    client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration=versions)
    try:
        patch = place.published()
        port = place.service.admin.port(patch, "v2")["id"]
        target = place.written(port)["target"]
        prefix = target.removeprefix(f"s3://{place.bucket}/")
        client.delete_object(Bucket=place.bucket, Key=f"{prefix}/config.json")
        digests = [file["sha256"] for file in place.operator.get(f"/patches/{patch}/versions/1").json()["files"]]
        assert f"{prefix}/config.json" in {key for key, _ in hidden(place)}
        assert place.purge(patch)["erasure"]["state"] == "done"
        left = {key for key, _ in hidden(place)}
        assert not {key for key in left if key.startswith(f"{prefix}/") or key.rpartition("/")[2] in digests}
        assert not {key for key in left if "/staging/" in key}
    finally:
        client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Suspended"})


def hidden(place: PurgeSite) -> list[tuple[str, str]]:
    """Everything in the bucket: versions and markers."""
    pages = place.s3.client().get_paginator("list_object_versions").paginate(Bucket=place.bucket)
    return [(e["Key"], e["VersionId"]) for page in pages for part in ("Versions", "DeleteMarkers") for e in page.get(part, ())]


def test_bytes_that_come_back(place: PurgeSite) -> None:
    """Put back by hand: the proof fails, the check of everything finds them, and the same request removes them again."""
    directory = place.fresh_patch()
    patch = place.published(directory)
    port = place.service.admin.port(patch, "v2")["id"]
    target = place.written(port)["target"]
    key = f"{target.removeprefix(f's3://{place.bucket}/')}/config.json"
    copy = place.s3.client().get_object(Bucket=place.bucket, Key=key)
    body, metadata = copy["Body"].read(), copy["Metadata"]
    place.purge(patch)
    blobs = place.service.runtime.tools.blobs
    digest = place.operator.get(f"/patches/{patch}/versions/1").json()["files"][1]
    blobs.append("back", "0", 0, (directory / digest["path"]).read_bytes())
    blobs.promote("back", "0", digest["sha256"], digest["path"])
    place.s3.client().put_object(Bucket=place.bucket, Key=key, Body=body, Metadata=metadata)
    asked = place.operator.get(f"/patches/{patch}/versions/1/erasure").json()
    assert (asked["state"], [blob["removed"] for blob in asked["blobs"]].count(False)) == ("pending", 1)
    assert not asked["copies"][0]["removed"]
    time.sleep(1.1)  # the store dates objects by whole seconds, and what came during a check is no trouble
    found = {trouble.code for trouble in place.troubles()}
    assert {"purge.bytes", "purge.copy"} <= found
    assert place.purge(patch)["erasure"]["state"] == "done"
    assert not {"purge.bytes", "purge.copy"} & {trouble.code for trouble in place.troubles()}
    past = "UPDATE patch_versions SET erased_at = NULL, purged_at = :moment WHERE published_digest = :digest"
    row = place.operator.get(f"/patches/{patch}/versions/1").json()
    place.service.execute(past, moment=erasure.dt.datetime(2026, 1, 1, tzinfo=erasure.dt.UTC), digest=row["digest"])
    assert "purge.pending" in {trouble.code for trouble in place.troubles()}
    Maintenance(place.service.runtime.read, place.service.runtime.write, place.service.runtime).run_due()
    assert "purge.pending" not in {trouble.code for trouble in place.troubles()}


def test_who_may(place: PurgeSite) -> None:
    """An operator of the owner's; with If-Match only what was read. Only what was purged can be asked for its erasure."""
    patch = place.published()
    path = f"/patches/{patch}/versions/1"
    publisher, rival = place.service.caller("acme", "read", "publish"), place.service.caller("rival", *ROLES["operator"])
    refused(publisher.post(f"{path}/purge", WHY), 403, "token.scope")
    refused(rival.post(f"{path}/purge", WHY), 404, "patch.unknown")
    refused(place.operator.post(f"{path}/purge", WHY, {"If-Match": '"99"'}), 412, "request.changed")
    refused(place.operator.get(f"{path}/erasure"), 409, "state.move")
    assert place.operator.get(path).json()["state"] == "published"
    assert place.operator.get(f"{path}/files/adapter_config.json", redirect=False).status_code == 200
