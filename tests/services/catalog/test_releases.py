"""Families and releases: registered, digested by a job, never changed, yanked."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from app.core.source import DirectorySource
from app.db.base import now
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.jobs.codec import encode
from app.services.catalog import releases
from app.services.catalog.orders import IngestResult
from tests.support.fixtures import Models, World
from tests.support.models import make_base
from tests.support.registry import Service, refused, unique


def test_family_is_created_described_and_listed(world: World) -> None:
    """A family is created once, described, listed and found by name."""
    name = unique("family")
    made = world.admin.post("/families", {"name": name, "description": "a line", "readers": ["*"]})
    assert made.status_code == 201
    assert made.headers["Location"] == f"/api/v1/families/{name}"
    assert world.reader.get(made.headers["Location"]).json() == made.json()
    assert made.json()["description"] == "a line"
    assert name in [f["name"] for f in world.reader.get("/families").json()["items"]]
    problem = refused(world.admin.post("/families", {"name": name}), 409, "family.taken")
    assert name in problem["detail"]
    refused(world.reader.get("/families/nope"), 404, "family.unknown")
    refused(world.reader.get("/families/nope/releases"), 404, "family.unknown")
    refused(world.service.register("nope", "v1", world.models.v1), 404, "family.unknown")


def test_registered_release_is_made_ready_by_its_job(world: World) -> None:
    """Registering answers at once with a job; the job makes the release ready, with a manifest and a summary."""
    family = world.admin.family(unique("family"))
    registered = world.service.register(family, "v1", world.models.v1)
    assert registered.status_code == 202
    assert registered.headers["Location"] == f"/api/v1/families/{family}/releases/v1"
    early = registered.json()
    assert (early["state"], early["manifest"], early["ready_at"]) == ("ingesting", None, None)
    assert early["job"] == f"registry:ingest:{early['id']}-1"
    refused(
        world.acme.post(f"/patches/{world.acme.patch('acme', unique('p'), family)}/versions",
                        {"trained_on": "v1", "files": [{"path": "a", "size": 0, "sha256": "0" * 64}]}),
        409, "release.not_ready",
    )  # fmt: skip
    world.service.run_jobs()
    ready = world.admin.get(registered.headers["Location"]).json()
    assert ready["state"] == "ready"
    assert ready["ready_at"] <= now().isoformat()
    files = {p.name: p.stat().st_size for p in world.models.v1.iterdir()}
    assert ready["total_bytes"] == sum(files.values())
    assert ready["summary"]["model_type"] == "llama"
    assert ready["summary"]["dtypes"] == ["BF16"]
    assert ready["summary"]["files"] == len(files)
    assert ready["summary"]["left_out"] == []
    # The manifest is kept under its digest, and the same bytes under another name have the same one.
    blob = world.service.data / "blobs" / "sha256" / ready["manifest"][:2] / ready["manifest"]
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == ready["manifest"]
    assert ready["manifest"] == world.admin.get("/families/llama/releases/v1").json()["manifest"]


def test_manifest_names_every_file_and_tensor(world: World) -> None:
    """sha256 of each file and of each tensor's bytes, as they can be computed from the directory."""
    with world.service.runtime.read() as uow:
        row = releases.get(uow, Principal("admin", frozenset({"admin"}), "test"), "llama", "v1")
        manifest = uow.tools.artifacts.manifest(row)
    for path, digest in manifest.file_digests.items():
        assert digest == hashlib.sha256((world.models.v1 / path).read_bytes()).hexdigest()
    for shard, header in manifest.checkpoint.shards.items():
        content = (world.models.v1 / shard).read_bytes()
        for tensor in header.tensors:
            data = content[header.data_start + tensor.begin : header.data_start + tensor.end]
            assert manifest.tensor_digests[tensor.name] == hashlib.sha256(data).hexdigest()


def test_release_of_the_same_directory_is_returned_again(world: World) -> None:
    """A repeat, by another spelling of the path too, makes no second release; another directory or way is refused."""
    before = world.admin.get("/families/llama/releases/v1").json()
    for directory in (world.models.v1, f"{world.models.v1}/", world.models.v1 / ".." / world.models.v1.name):
        again = world.service.register("llama", "v1", Path(directory))
        assert again.status_code == 200
        assert again.json() == before
    problem = refused(world.service.register("llama", "v1", world.models.v2), 409, "release.taken")
    assert problem["data"]["source"] == str(world.models.v1)
    refused(world.service.register("llama", "v1", world.models.v1, copy=True), 409, "release.taken")
    refused(world.service.register("llama", "v1", world.models.v1, parent="v2"), 409, "release.taken")
    refused(world.service.register("llama", "v2", world.models.v2), 409, "release.taken")  # its parent is v1
    assert world.service.runtime.tools.jobs.enqueued == []


def test_release_with_an_unknown_parent_is_refused(world: World) -> None:
    """The release that one continues is named; an unknown one is refused and nothing is registered."""
    assert world.admin.get("/families/llama/releases/v2").json()["parent"] == "v1"
    assert world.admin.get("/families/llama/releases/v1").json()["parent"] is None
    refused(world.service.register("llama", "v9", world.models.v2, parent="v8"), 409, "release.parent")
    other = world.admin.family(unique("family"))
    refused(world.service.register(other, "v2", world.models.v2, parent="v1"), 409, "release.parent")
    refused(world.admin.get("/families/llama/releases/v9"), 404, "release.unknown")


def test_rejected_release_is_read_again_after_repair(fresh: Callable[..., Service], tmp_path: Path) -> None:
    """A directory that is no model is rejected with its reason; repaired, the same registration is read again."""
    service = fresh()
    family = service.admin.family("llama")
    directory = make_base(service.place / "v1")
    hidden = (directory / "config.json").rename(tmp_path / "config.json")
    rejected = service.release(family, "v1", directory)
    assert rejected["state"] == "rejected"
    assert rejected["problem"]["code"] == "checkpoint.missing_file"
    assert "config.json" in rejected["problem"]["detail"]
    assert rejected["problem"]["remedy"]
    assert list((service.data / "blobs" / "staging").iterdir()) == []
    hidden.rename(directory / "config.json")
    retried = service.register(family, "v1", directory)
    assert retried.status_code == 202
    assert (retried.json()["state"], retried.json()["problem"]) == ("ingesting", None)
    assert retried.json()["job"].endswith("-2")
    assert service.release(family, "v1", directory)["state"] == "ready"
    kinds = [e["kind"] for e in service.admin.get("/events").json()["items"] if e["subject"] == "llama/v1"]
    assert kinds == ["release.registered", "release.rejected", "release.registered", "release.ready"]


def test_rejected_release_can_be_registered_with_another_directory(fresh: Callable[..., Service]) -> None:
    """What was rejected never was a release: its name is free for another directory, way and parent."""
    service = fresh()
    family = service.admin.family("llama")
    service.release(family, "v0", make_base(service.place / "v0"))
    (service.place / "wrong").mkdir()
    assert service.release(family, "v1", service.place / "wrong")["state"] == "rejected"
    right = make_base(service.place / "v1")
    ready = service.release(family, "v1", right, copy=True, parent="v0")
    assert (ready["state"], ready["source"], ready["copied"], ready["parent"]) == ("ready", str(right), True, "v0")


def test_directory_with_a_name_that_is_too_long_is_refused(world: World) -> None:
    refused(world.service.register("llama", "long", world.models.v1.parent / ("a" * 4000)), 404, "release.directory")


def test_release_whose_file_changes_while_it_is_read_is_rejected(
    fresh: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digests of a moving target are of nothing: the release is rejected."""
    service = fresh()
    family = service.admin.family("llama")
    directory = make_base(service.place / "v1")
    read_into = DirectorySource.read_into

    def and_touch(self: DirectorySource, path: str, offset: int, buffer: memoryview) -> None:
        read_into(self, path, offset, buffer)
        (directory / "model.safetensors").touch()

    monkeypatch.setattr(DirectorySource, "read_into", and_touch)
    release = service.release(family, "v1", directory)
    assert (release["state"], release["problem"]["code"]) == ("rejected", "checkpoint.changed")


def test_yanked_release_is_hidden_and_its_ports_are_read(fresh: Callable[..., Service], models: Models) -> None:
    """A yanked release is hidden from selection; the ports that are ready on it are read on."""
    service = fresh()
    admin, family = service.admin, service.admin.family("llama")
    service.release(family, "v1", models.v1)
    service.release(family, "v2", models.v2)
    patch = admin.patch("acme", "tone")
    admin.publish(patch, models.patch)
    port = admin.port(patch, "v2")["id"]
    yanked = admin.post("/families/llama/releases/v2/yank", {"reason": "diverged"})
    assert yanked.status_code == 200
    assert (yanked.json()["state"], yanked.json()["yank_reason"]) == ("yanked", "diverged")
    problem = refused(admin.post("/ports", {"patch": patch, "release": "v2"}), 410, "release.yanked")
    assert "diverged" in problem["detail"]
    refused(admin.post("/ports/check", {"patch": patch, "release": "v2"}), 410, "release.yanked")
    refused(admin.post("/families/llama/releases/v2/yank", {"reason": "twice"}), 409, "state.move")
    assert admin.get(f"/ports/{port}").json()["state"] == "ready"
    assert admin.get(f"/ports/{port}/files/config.json").status_code == 200
    shard = next(p.name for p in models.v2.iterdir() if p.suffix == ".safetensors")
    assert admin.get(f"/ports/{port}/files/{shard}").status_code == 200
    assert [r["name"] for r in admin.get("/families/llama/releases", state="ready").json()["items"]] == ["v1"]
    assert [r["name"] for r in admin.get("/families/llama/releases").json()["items"]] == ["v2", "v1"]


def test_unknown_release_is_404_and_etag_follows_changes(world: World) -> None:
    """A release has an ETag that moves with it; an unknown one is a 404 that says what to do."""
    found = world.reader.get("/families/llama/releases/v1")
    assert found.headers["ETag"] == '"2"'  # registered, then ready
    problem = refused(world.reader.get("/families/llama/releases/v7"), 404, "release.unknown")
    assert "portllm release add" in problem["remedy"]
    refused(world.admin.post("/families/llama/releases/v7/yank", {"reason": "?"}), 404, "release.unknown")


def test_lost_job_records_nothing(fresh: Callable[..., Service]) -> None:
    """A job that another worker took over meanwhile cannot make the release ready, nor leave a blob named."""
    service = fresh()
    family = service.admin.family("llama")
    assert service.register(family, "v1", make_base(service.place / "v1")).status_code == 202
    job, kind, _ = service.runtime.tools.jobs.enqueued[0]

    def lose(*_: object) -> dict[str, object]:
        service.job_row(job, executor="somebody-else")
        return {"result": encode(IngestResult("0" * 64, {}, {}, {}))}

    with pytest.raises(DomainError) as caught:
        service.run_job(job, kind, do=lose)
    assert caught.value.code == "job.lost"
    assert service.admin.get("/families/llama/releases/v1").json()["state"] == "ingesting"
    assert service.rows("SELECT count(*) FROM releases WHERE manifest IS NOT NULL") == [(0,)]
