"""How the fault tests choose their moments, and what must be true after every restart."""

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.live.service import Service, until

ROUNDS = int(os.environ.get("PORTLLM_SOAK_ROUNDS", "3"))


def moments(seconds: float, seed: int) -> Iterator[float]:
    """A random moment for each round, in random order, spread over an operation that takes `seconds` undisturbed.

    The operation is cut into as many equal parts as there are rounds; every part is hit once, somewhere. The last part ends
    a little after the operation, so that its very end is hit too.
    """
    chooser = random.Random(f"{seed} {os.environ.get('PORTLLM_SOAK_SEED', time.time_ns())}")
    parts = list(range(ROUNDS))
    chooser.shuffle(parts)
    return ((part + chooser.random()) / ROUNDS * seconds * 1.05 for part in parts)


def kill_at(service: Service, moment: float, began: float) -> list[int]:
    """kill -9 of the service `moment` seconds after `began`; returns the processes of its jobs at that time.

    They must end by themselves.
    """
    time.sleep(max(0.0, began + moment - time.monotonic()))  # the moment is what is under test
    children = service.jobs()
    service.kill()
    until(lambda: not set(service.jobs()), 10)
    return children


def check_after_restart(service: Service, verified: dict[Path, int]) -> None:
    """Nothing half-visible: every blob has the digest of its name, and whatever is listed has all its bytes.

    Args:
        service: it runs again.
        verified: blobs that were read before, with their mtime; they are not read again while that stays the same.
    """
    with service.client() as client:
        names = [f"/patches/{patch['owner']}/{patch['name']}/versions" for patch in pages(client, "/patches")]
        versions = [version for name in names for version in pages(client, name)]
        releases = list(pages(client, "/releases"))
    # Read after the lists: what becomes visible meanwhile is not in them, and blobs are only added.
    blobs = service.data / "blobs/sha256"
    for path in blobs.glob("*/*"):
        if verified.get(path) != path.stat().st_mtime_ns:
            assert digest_of(path) == path.name, "a blob holds other bytes than its name says"
            verified[path] = path.stat().st_mtime_ns

    def stored(digest: str) -> bool:
        return blobs / digest[:2] / digest in verified

    for version in versions:
        assert version["state"] == "published"
        assert all(stored(file["sha256"]) for file in version["files"]), version
    for release in releases:
        assert release["state"] in ("ingesting", "ready"), release
        assert (release["manifest"] is not None) == (release["state"] == "ready")
        if release["manifest"]:
            assert stored(release["manifest"]), release
            files = manifest_files(service, release["manifest"])
            assert not release["copied"] or all(stored(digest) for digest in files.values()), release


def staged(service: Service, upload: str) -> list[Path]:
    """Files that are still staged for an upload or a release."""
    return [path for path in (service.data / "blobs/staging" / upload).rglob("*") if path.is_file()]


def manifest_files(service: Service, digest: str) -> dict[str, str]:
    """sha256 by path of a release's files, as its manifest says."""
    manifest = json.loads((service.data / "blobs/sha256" / digest[:2] / digest).read_bytes())
    return {path: sha256 for path, (_, sha256) in manifest["files"].items()}


def pages(client: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    """Every item of a list."""
    cursor = None
    while True:
        answer = client.get(path, params={"limit": 200} | ({"cursor": cursor} if cursor else {})).raise_for_status().json()
        yield from answer["items"]
        cursor = answer["next_cursor"]
        if cursor is None:
            return


def digest_of(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
