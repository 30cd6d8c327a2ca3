"""Where releases come from: allow-listed directories, by reference and re-checked, or copied."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.jobs.engine import EXECUTOR
from app.jobs.runner import JobRunner
from tests.support.fixtures import Models, World
from tests.support.models import continue_base
from tests.support.registry import Service, refused, unique

SHARD = "model-00001-of-00003.safetensors"


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    """A registry with release v1 and a patch on it; `place` is empty."""
    with registries().running() as service:
        service.admin.family("llama")
        service.release("llama", "v1", models.v1)
        service.admin.publish(service.admin.patch("acme", "tone"), models.patch)
        yield service


@pytest.fixture
def name() -> str:
    """A release that there is not yet, and its directory below `place`."""
    return unique("v2-")


def test_directory_outside_the_allowed_roots_is_refused(service: Service, name: str, tmp_path: Path) -> None:
    """Only what really lies under an allowed directory; nobody learns what else is on the disk."""
    outside = service.place.parent / "outside"
    outside.mkdir()
    (service.place / "link").symlink_to(outside)
    (service.place / "a" / "b").mkdir(parents=True)
    for directory in (
        outside, service.place / "link", service.place / ".." / "outside", service.place.parent, "/etc", "/",
        "relative/place", f"{service.place}-beside", "/proc/self/root/etc", tmp_path / "not-there",
    ):  # fmt: skip
        problem = refused(service.register("llama", name, Path(directory)), 403, "release.root")
        assert problem["data"]["path"] == str(directory)
    assert service.admin.get("/families/llama/releases/" + name).status_code == 404
    # A link that stays inside is followed.
    (service.place / "inside").symlink_to(service.place / "a")
    assert service.register("llama", "inside", service.place / "inside").json()["source"] == str(service.place / "a")


def test_missing_directory_and_file_under_a_root_are_told_apart(service: Service, name: str) -> None:
    """Under a root, what is missing and what is a file are told apart from what is forbidden."""
    (service.place / "file").write_text("x")
    for found in ("file", "missing"):
        problem = refused(service.register("llama", name, service.place / found), 404, "release.directory")
        assert "where the service runs" in problem["remedy"]


def test_link_that_leads_out_of_the_root_is_refused_at_ingestion(
    service: Service, models: Models, name: str, tmp_path: Path
) -> None:
    """A file that is a link to somewhere else is refused at ingestion: it could carry any file of the server away."""
    secret = tmp_path / "secret"
    secret.write_text("of the server")
    directory = shutil.copytree(models.v1, service.place / name)
    (directory / "notes.txt").symlink_to(secret)
    release = service.release("llama", name, directory)
    assert (release["state"], release["problem"]["code"]) == ("rejected", "checkpoint.link")
    assert "notes.txt is a link" in release["problem"]["detail"]
    # As a hub cache does it: links to another allowed place.
    (directory / "notes.txt").unlink()
    (directory / "notes.txt").symlink_to(models.v1 / "config.json")
    assert service.release("llama", name, directory)["state"] == "ready"


def test_link_that_leads_outside_after_registration_is_refused(
    service: Service, models: Models, name: str, tmp_path: Path
) -> None:
    """Every open judges again: a file that is now a link, and a directory that is one; identities may be what they were."""
    directory = shutil.copytree(models.v1, service.place / name)
    (service.place / f"{name}-blob").write_text("inside")
    (directory / "notes.txt").symlink_to(service.place / f"{name}-blob")
    files = _port(service, name, directory, copy=False)
    assert service.admin.get(f"{files}/notes.txt").content == b"inside"
    shutil.move(service.place / f"{name}-blob", tmp_path / "blob")
    (service.place / f"{name}-blob").symlink_to(tmp_path / "blob")
    problem = refused(service.admin.get(f"{files}/notes.txt"), 409, "checkpoint.link")
    assert "notes.txt is a link" in problem["detail"]
    shutil.move(directory, tmp_path / "moved")
    directory.symlink_to(tmp_path / "moved")
    refused(service.admin.get(f"{files}/{SHARD}"), 409, "checkpoint.link")


def test_directory_that_became_a_link_before_the_job_ran_is_refused(
    service: Service, models: Models, name: str, tmp_path: Path
) -> None:
    """The allow-list is asked again when the job begins."""
    directory = shutil.copytree(models.v1, service.place / name)
    assert service.register("llama", name, directory).status_code == 202
    shutil.move(directory, tmp_path / "moved")
    directory.symlink_to(tmp_path / "moved")
    service.run_jobs()
    release = service.admin.get("/families/llama/releases/" + name).json()
    assert (release["state"], release["problem"]["code"]) == ("rejected", "release.root")


def _port(service: Service, name: str, directory: Path, copy: bool) -> str:
    release = service.release("llama", name, directory, copy=copy)
    assert (release["state"], release["copied"]) == ("ready", copy)
    port = service.admin.port("acme/tone", name)
    assert port["state"] == "ready"
    return f"/ports/{port['id']}/files"


@pytest.mark.parametrize("change", ["touched", "longer", "replaced", "removed"])
def test_changed_file_is_never_served(service: Service, models: Models, name: str, change: str) -> None:
    """By reference: a file that is not the registered one any more is a 409, whether carried or computed."""
    directory = continue_base(models.v1, service.place / name)
    files = _port(service, name, directory, copy=False)
    for path in (SHARD, "tokenizer.json"):
        before = service.admin.get(f"{files}/{path}")
        assert before.status_code == 200
        _change(directory / path, change)
        problem = refused(service.admin.get(f"{files}/{path}"), 409, "checkpoint.changed")
        assert path in problem["detail"]
        refused(service.admin.get(f"{files}/{path}", {"Range": "bytes=0-0"}), 409, "checkpoint.changed")
    # What did not change is served as before, and a new port is refused for the same reason.
    assert service.admin.get(f"{files}/generation_config.json").status_code == 200
    body = {"patch": "acme/tone", "release": name, "recipe": {"dtype": "float32"}}
    refused(service.admin.post("/ports", body), 409, "checkpoint.changed")


def _change(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "touched":
        os.utime(path, ns=(1, 1))
    elif how == "longer":
        found = path.stat()
        path.write_bytes(content + b" ")
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    elif how == "replaced":
        found = path.stat()
        other = path.with_name(".other")
        other.write_bytes(content)
        os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
        other.replace(path)
    else:
        path.unlink()


def test_copy_outlives_its_source(service: Service, models: Models, name: str) -> None:
    """Copied: the same bytes, whatever becomes of the directory."""
    directory = continue_base(models.v1, service.place / name)
    by_reference = _port(service, name, directory, copy=False)
    copied = _port(service, name + "-copy", directory, copy=True)
    paths = [f["path"] for f in service.admin.get(by_reference).json()["files"]]
    assert paths == [f["path"] for f in service.admin.get(copied).json()["files"]]
    before = {path: service.admin.get(f"{by_reference}/{path}").content for path in paths}
    first, second = (service.admin.get(f"/families/llama/releases/{n}").json() for n in (name, name + "-copy"))
    assert first["manifest"] == second["manifest"]
    shutil.rmtree(directory)
    for path, content in before.items():
        assert service.admin.get(f"{copied}/{path}").content == content
    assert list((service.data / "blobs" / "staging").iterdir()) == []


def test_ingestion_runs_in_a_child_process_without_secrets(world: World) -> None:
    """The same work by the real child: a process that gets its order on stdin and knows neither database nor tokens."""
    family = world.admin.family(unique("family"))
    assert world.service.register(family, "v1", world.models.v1, copy=True).status_code == 202
    progress = []

    async def heard(report: dict[str, object]) -> None:
        progress.append(report)

    runtime = world.service.runtime
    ((job, kind, _),) = runtime.tools.jobs.enqueued
    world.service.job_row(job)
    runner = JobRunner(runtime.job_kinds, runtime.write, runtime.read, EXECUTOR, keep_progress=heard)
    assert asyncio.run(runner.job(job, kind, runner.attempt)) == {"result": "recorded"}
    runtime.tools.jobs.forget(job)
    release = world.admin.get(f"/families/{family}/releases/v1").json()
    assert (release["state"], release["copied"]) == ("ready", True)
    assert release["manifest"] == world.admin.get("/families/llama/releases/v1").json()["manifest"]
    assert progress
    assert all(0 <= p["done"] <= p["total"] for p in progress)
