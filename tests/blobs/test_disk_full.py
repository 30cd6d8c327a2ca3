"""A disk that is really full: what cannot be stored is refused by name, and nothing is lost or half-visible."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fixtures import Models
from tests.support.registry import Service, refused
from tests.support.uploads import append, send


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of eight megabytes; skips where none can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Takes all that is left."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 4096)
            except OSError:
                return filler


def test_writes_on_a_full_disk_are_refused_and_go_on_with_space(small_disk: Path, models: Models) -> None:
    """Uploads, registrations and anything that writes a row answer 507; with space again, all goes on where it was."""
    with Service(small_disk / "registry", models.root).running() as service:
        admin = service.admin
        admin.family("llama")
        service.release("llama", "v1", models.v1)
        patch = admin.patch("acme", "tone")
        draft = admin.draft(patch, models.patch)
        upload = max(draft["uploads"], key=lambda u: u["size"])
        content = (models.patch / upload["path"]).read_bytes()
        assert append(admin, upload["url"], 0, content[:1000]).status_code == 204
        filler = fill(small_disk)
        refused(append(admin, upload["url"], 1000, content[1000:]), 507, "server.storage_full")
        body = {"owner": "acme", "name": "other", "family": "llama", "description": "x" * 2000}
        for _ in range(20):  # the write-ahead log may have room for a few
            response = admin.post("/patches", body)
            if response.status_code != 201:
                break
            body["name"] += "x"
        refused(response, 507, "server.storage_full")
        assert admin.get(f"/patches/{patch}").status_code == 200
        assert filler.stat().st_size > 0
        filler.unlink()
        offset = int(admin.head(upload["url"]).headers["Upload-Offset"])
        assert append(admin, upload["url"], offset, content[offset:]).status_code == 204
        send(admin, {"uploads": [u for u in draft["uploads"] if u != upload]}, models.patch)
        assert admin.post(f"/uploads/{draft['id']}/publish").json()["number"] == 1
        assert admin.post("/patches", body).status_code == 201
