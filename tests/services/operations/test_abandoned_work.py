"""The sweep: what was abandoned goes, what anything names stays, and nothing goes before its time."""

import datetime as dt
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.db.base import now
from app.services.operations.maintenance import sweep_all
from tests.support.fixtures import Models
from tests.support.registry import Service, refused

HOUR = 3600.0


@pytest.fixture
def service(begun: Service, models: Models) -> Service:
    """A registry with a release by reference and a copied one."""
    begun.release("llama", "v2", models.v2, copy=True)
    return begun


def swept(service: Service) -> dict[str, int]:
    return sweep_all(service.runtime.read, service.runtime.write)


def counts(**found: int) -> dict[str, int]:
    """What a sweep says it removed; nothing of what is not named here."""
    return {"drafts": 0, "pushes": 0, "staged": 0, "parts": 0, "blobs": 0} | found


def age(service: Service, seconds: float) -> None:
    """Makes everything older: rows and files."""
    service.execute("UPDATE patch_versions SET created_at = :moment", moment=now() - dt.timedelta(seconds=seconds))
    for path in (service.data / "blobs").rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)


def blobs_of(service: Service) -> set[str]:
    return {p.name for p in (service.data / "blobs" / "sha256").glob("*/*")}


def test_what_is_named_stays(service: Service, models: Models, another: Callable[[], Path]) -> None:
    """Manifests, copies, versions that are published, yanked ones too: however old, they are all there after a sweep."""
    admin = service.admin
    patch = admin.patch("acme", "tone")
    admin.publish(patch, models.patch)
    admin.publish(patch, another())
    admin.post(f"/patches/{patch}/versions/1/yank", {"reason": "old"})
    admin.post("/families/llama/releases/v2/yank", {"reason": "old"})
    ready = admin.port(patch, "v1")["id"]
    before = blobs_of(service)
    copies = {hashlib.sha256(p.read_bytes()).hexdigest() for p in models.v2.iterdir()}
    assert copies < before
    age(service, 100 * 24 * HOUR)
    assert swept(service) == counts()
    assert blobs_of(service) == before
    assert admin.get(f"/ports/{ready}/files/config.json").status_code == 200
    assert len(admin.get(f"/patches/{patch}/versions").json()["items"]) == 2


def test_abandoned_draft(service: Service, another: Callable[[], Path]) -> None:
    """A draft that nobody finished in a day is discarded with its bytes; a younger one goes on."""
    admin = service.admin
    patch = admin.patch("acme", "tone")
    old = admin.uploaded(patch, another())
    age(service, 25 * HOUR)
    directory = another()
    young = admin.uploaded(patch, directory)
    assert swept(service) == counts(drafts=1, staged=1)
    refused(admin.get(f"/uploads/{old['id']}"), 404, "upload.unknown")
    refused(admin.post(f"/uploads/{old['id']}/publish"), 404, "upload.unknown")
    assert {p.name for p in (service.data / "blobs" / "staging").iterdir()} == {young["id"]}
    assert admin.post(f"/uploads/{young['id']}/publish").json()["number"] == 1
    assert swept(service) == counts()


def test_bytes_of_a_refused_publication(service: Service, another: Callable[[], Path]) -> None:
    """Bytes that were verified and then not published go with their draft, not before; others of the same patch stay."""
    admin = service.admin
    patch = admin.patch("acme", "tone")
    directory = another()
    (directory / "adapter_config.json").write_text("{")
    named = blobs_of(service)
    draft = admin.uploaded(patch, directory)
    refused(admin.post(f"/uploads/{draft['id']}/publish"), 422, "adapter.invalid_config")
    unnamed = blobs_of(service) - named
    assert len(unnamed) == 3
    age(service, 23 * HOUR)
    assert swept(service)["blobs"] == 0
    age(service, 25 * HOUR)
    assert swept(service) == counts(drafts=1, staged=1, blobs=3)
    assert blobs_of(service) == named


def test_bytes_that_another_names(service: Service, models: Models, another: Callable[[], Path]) -> None:
    """A refused publication shares files with a published one: those stay."""
    admin = service.admin
    patch = admin.patch("acme", "tone")
    admin.publish(patch, models.patch)
    directory = another()
    (directory / "adapter_config.json").write_text("{")
    draft = admin.uploaded(patch, directory)
    refused(admin.post(f"/uploads/{draft['id']}/publish"), 422, "adapter.invalid_config")
    age(service, 25 * HOUR)
    assert swept(service)["blobs"] == 2  # the broken configuration and the card; the weights are version 1's
    assert admin.port(patch, "v1")["state"] == "ready"


def test_abandoned_work(service: Service) -> None:
    """The output of a job that was never recorded goes when it has been quiet for a day."""
    staging = service.data / "blobs" / "staging"
    for name in ("rel_old", "rel_new"):
        (staging / name / "files").mkdir(parents=True)
        (staging / name / "files" / "model.safetensors").write_bytes(b"part")
    for path in [staging / "rel_old", *(staging / "rel_old").rglob("*")]:
        os.utime(path, (time.time() - 25 * HOUR,) * 2)
    assert swept(service)["staged"] == 1
    assert {p.name for p in staging.iterdir()} == {"rel_new"}


def test_staging_that_moves_while_it_is_swept(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is promoted between being listed and being looked at does not end the sweep."""
    upload = service.data / "blobs" / "staging" / "up"
    upload.mkdir()
    (upload / "0").write_bytes(b"x")
    rglob = Path.rglob

    def promoted_meanwhile(self: Path, pattern: str) -> list[Path]:
        found = list(rglob(self, pattern))
        for path in found:
            path.unlink()
        return found

    monkeypatch.setattr(Path, "rglob", promoted_meanwhile)
    assert swept(service)["staged"] == 0
