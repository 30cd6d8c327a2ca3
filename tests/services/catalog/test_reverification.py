"""Releases by reference: changes that leave size, mtime and inode as they were, samples that are hashed anew, reacceptance."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.core.source import stat_of
from app.services.catalog import reverification
from app.services.operations.maintenance import Maintenance
from tests.support.fixtures import Models
from tests.support.fsck import troubles_by_code as found_by_fsck
from tests.support.metrics import figures
from tests.support.registry import Service, refused
from tests.support.service_process import invoke

WEIGHTS, CARRIED = "model-00001-of-00003.safetensors", "tokenizer.json"


@pytest.fixture
def service(fresh: Callable[..., Service], models: Models) -> Service:
    """A registry with release v1 by reference, in a directory of its own, and a ready port on it."""
    service = fresh()
    service.admin.family("llama")
    shutil.copytree(models.v1, service.place / "v1")
    assert service.release("llama", "v1", service.place / "v1")["state"] == "ready"
    service.admin.publish(service.admin.patch("acme", "tone"), models.patch)
    assert service.admin.port("acme/tone", "v1")["state"] == "ready"
    return service


def files_of(service: Service) -> str:
    (port,) = service.admin.get("/ports").json()["items"]
    return f"/ports/{port['id']}/files"


def change_unseen(path: Path) -> None:
    """Other bytes, and the old mtime: only ctime differs."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # one tick of the system's clock later
        with path.open("r+b") as file:
            file.write(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    now = stat_of(path)
    assert (now.size, now.mtime_ns, now.inode) == (before.st_size, before.st_mtime_ns, before.st_ino)


def identities_of(service: Service) -> dict[str, Any]:
    ((found,),) = service.rows("SELECT identities FROM releases")
    return dict(json.loads(found) if isinstance(found, str) else found or {})


def as_registered_before(service: Service) -> None:
    """As the version before recorded a release: without ctime and device."""
    service.execute("UPDATE releases SET identities = NULL")


def sample(service: Service, budget: int = 2**30) -> int:
    return reverification.sample(service.runtime.read, service.runtime.write, budget)


def reaccept(service: Service) -> tuple[int, dict[str, Any]]:
    """Exit code and outcome of the operator's command."""
    known = {} if service.on_sqlite else {"PORTLLM_DATABASE_URL": service.settings.database_url}
    ended = invoke("fsck", "--reaccept", "--data", service.data, "--json", **known)
    ((outcome,),) = [json.loads(ended.stdout)["releases"]]
    return ended.exit_code, outcome


def kinds(service: Service) -> list[str]:
    return [event["kind"] for event in service.admin.get("/events", limit=100).json()["items"]]


@pytest.mark.parametrize("path", [WEIGHTS, CARRIED])
def test_bytes_changed_in_place_with_the_time_set_back_are_not_served(service: Service, path: str) -> None:
    """Neither as they lie nor merged; the remedy names the way back."""
    files = files_of(service)
    assert service.admin.get(f"{files}/{path}").status_code == 200
    change_unseen(service.place / "v1" / path)
    for address in (f"{files}/{path}", f"/base/llama/resolve/v1/{path}"):
        problem = refused(service.admin("GET", address, whole=address.startswith("/base")), 409, "checkpoint.changed")
        assert "ctime_ns differ" in problem["detail"]
        assert "portllm fsck --reaccept" in problem["remedy"]


def test_the_version_before_can_read_what_this_one_registers(service: Service) -> None:
    """It knows three values of each file; the others are beside them."""
    ((stats,),) = service.rows("SELECT stats FROM releases")
    stats = json.loads(stats) if isinstance(stats, str) else stats
    known = stat_of(service.place / "v1" / WEIGHTS)
    assert stats[WEIGHTS] == [known.size, known.mtime_ns, known.inode]
    assert identities_of(service)[WEIGHTS] == [known.ctime_ns, known.device]


def test_a_release_of_the_version_before_is_served_and_reaccepted(service: Service) -> None:
    """By size, mtime and inode, as it was registered, until an operator has it hashed: then by all."""
    as_registered_before(service)
    (service.place / "v1" / CARRIED).chmod(0o640)  # another ctime
    assert service.admin.get(f"{files_of(service)}/{CARRIED}").status_code == 200
    assert reaccept(service) == (0, {"release": "llama/v1", "accepted": True, "wrong": [], "reason": ""})
    known = stat_of(service.place / "v1" / CARRIED)
    assert identities_of(service)[CARRIED] == [known.ctime_ns, known.device]


def test_a_directory_that_was_restored_is_refused_until_it_is_reaccepted(service: Service) -> None:
    """The same bytes in other files; what says so is an operator who has them hashed."""
    before = service.admin.get(f"{files_of(service)}/{WEIGHTS}").content
    shutil.move(service.place / "v1", service.place / "old")
    shutil.copytree(service.place / "old", service.place / "v1")
    refused(service.admin.get(f"{files_of(service)}/{WEIGHTS}"), 409, "checkpoint.changed")
    assert reaccept(service)[0] == 0
    assert service.admin.get(f"{files_of(service)}/{WEIGHTS}").content == before
    assert "release.reaccepted" in kinds(service)
    reaccept(service)
    assert kinds(service).count("release.reaccepted") == 1, "nothing changed the second time"


def test_reacceptance_of_other_bytes_is_refused(service: Service) -> None:
    change_unseen(service.place / "v1" / WEIGHTS)
    assert reaccept(service) == (1, {"release": "llama/v1", "accepted": False, "wrong": [WEIGHTS], "reason": ""})
    refused(service.admin.get(f"{files_of(service)}/{WEIGHTS}"), 409, "checkpoint.changed")
    (service.place / "v1" / WEIGHTS).unlink()
    code, outcome = reaccept(service)
    assert (code, outcome["accepted"], WEIGHTS in outcome["reason"]) == (1, False, True)


@pytest.mark.parametrize("path", [WEIGHTS, CARRIED])
def test_sample_finds_changed_bytes_with_unchanged_identity(
    service: Service, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The release is not read any more; an event, the log, a metric and fsck say so. Reaccepted, it is read again."""
    target = service.place / "v1" / path
    kept = target.read_bytes()
    as_registered_before(service)
    assert sample(service) > 0
    assert "release.damaged" not in kinds(service)
    change_unseen(target)
    assert service.admin.get(f"{files_of(service)}/{path}").status_code == 200, "what remains possible"
    assert found_by_fsck(service, quick=False) == {"release.bytes": [f"llama/v1/{path}"]}
    sample(service)
    for read in (path, "config.json"):
        assert path in refused(service.admin.get(f"{files_of(service)}/{read}"), 409, "release.damaged")["detail"]
    assert f"{path} of llama/v1 does not hold the bytes" in caplog.text
    assert kinds(service).count("release.damaged") == 1
    assert figures(service)["portllm_releases_damaged"] == 1
    assert found_by_fsck(service) == {"release.bytes": [f"llama/v1/{path}"]}
    assert reaccept(service)[0] == 1
    target.write_bytes(kept)
    assert reaccept(service)[0] == 0
    assert service.admin.get(f"{files_of(service)}/{path}").status_code == 200
    assert found_by_fsck(service, quick=False) == {}


def test_a_sample_reads_no_more_than_its_budget(service: Service) -> None:
    """Pieces that do not fit are left; a large budget reads every byte of tensors and other files once."""
    sizes = [(service.place / "v1" / CARRIED).stat().st_size, 2_000, 0]
    assert all(0 <= sample(service, size) <= size for size in sizes)
    everything = sample(service)
    total = sum(path.stat().st_size for path in (service.place / "v1").iterdir())
    assert 0.9 * total < everything <= total
    assert sample(service, everything) == everything


def test_maintenance_samples_each_hour(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at its start; then within what the setting says."""
    as_registered_before(service)
    change_unseen(service.place / "v1" / WEIGHTS)
    house = Maintenance(service.runtime.read, service.runtime.write, sampled_bytes=service.settings.verify_bytes_per_hour)
    house.run_due()
    assert "release.damaged" not in kinds(service)
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 3601)
    house.run_due()
    assert "release.damaged" in kinds(service)
