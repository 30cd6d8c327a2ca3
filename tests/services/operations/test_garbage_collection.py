"""`portllm gc`: bytes that nothing names go, beside a service that runs; what a draft will need stays."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import Models
from tests.support.registry import Service
from tests.support.service_process import invoke

HOUR = 3600.0


@pytest.fixture
def service(begun: Service, models: Models) -> Service:
    begun.admin.publish(begun.admin.patch("acme", "tone"), models.patch)
    return begun


def gc(service: Service, *options: str) -> dict[str, Any]:
    known = {} if service.on_sqlite else {"PORTLLM_DATABASE_URL": service.settings.database_url}
    ended = invoke("gc", "--data", service.data, "--json", *options, **known)
    assert ended.exit_code == 0, ended.output
    return dict(json.loads(ended.stdout))


def strays(service: Service, count: int, age: float, first: int = 0) -> list[Path]:
    """Bytes that nothing names, `age` seconds old."""
    made = []
    for number in range(first, first + count):
        path = service.data / "blobs/sha256/00" / f"00{number:062x}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"abc")
        os.utime(path, (time.time() - age,) * 2)
        made.append(path)
    return made


def test_what_nothing_names_goes(service: Service, another: Callable[[], Path]) -> None:
    """Said first, then done; young bytes and those that a draft announced stay, however old they are."""
    old, young = strays(service, 3, 5 * HOUR), strays(service, 2, HOUR / 2, 3)
    draft = service.admin.uploaded("acme/tone", another())
    blobs = service.runtime.tools.blobs
    for index, file in enumerate(draft["files"]):
        blobs.promote(draft["id"], str(index), file["sha256"], file["path"])
    for path in (service.data / "blobs/sha256").glob("*/*"):
        if path.parent.name != "00" or path not in young:
            os.utime(path, (time.time() - 5 * HOUR,) * 2)
    said = gc(service, "--dry-run")
    assert (said["found"], said["found_bytes"], said["removed"], said["dry_run"]) == (3, 9, 0, True)
    assert 5 * HOUR <= said["oldest_seconds"] < 6 * HOUR
    assert all(path.exists() for path in old)
    assert gc(service) | {"oldest_seconds": 0} == said | {"removed": 3, "removed_bytes": 9, "dry_run": False, "oldest_seconds": 0}
    assert [path.exists() for path in (*old, *young)] == [False] * 3 + [True] * 2
    assert gc(service, "--grace", "10m")["removed"] == 2
    assert gc(service)["found"] == 0
    assert service.admin.get("/patches/acme/tone/versions/1/files/adapter_config.json").status_code == 200
    assert all(blobs.size(file["sha256"]) is not None for file in draft["files"])


@pytest.mark.parametrize("grace", ["0s", "59s", "1", "h", "-1h", "1w"])
def test_a_grace_that_is_none(service: Service, grace: str) -> None:
    """Bytes exist for a moment before anything names them: less than a minute is refused."""
    ended = invoke("gc", "--data", service.data, "--grace", grace)
    assert (ended.exit_code, "[client.grace]" in ended.stderr) == (2, True)
