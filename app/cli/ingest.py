"""Registering a release and following its ingestion."""

import time
from pathlib import Path
from typing import Any

from app.cli.client import Client, RefusedError
from app.cli.names import release_path, segment
from app.cli.output import progress_bar

POLL_SECONDS = 0.3


def add_release(
    client: Client, family: str, name: str, source: str | Path, parent: str | None = None, copy: bool = False
) -> dict[str, Any]:
    """Registers a directory, or an s3:// prefix, as a release of a family, which is created if it is new; returns the release."""
    path = f"/families/{segment(family)}/releases"
    try:
        client.post("/families", {"name": family})
    except RefusedError as error:
        if error.code != "family.taken":
            raise
    place = str(source) if str(source).startswith("s3://") else str(Path(source).absolute())
    body = {"name": name, "directory": place, "parent": parent, "copy": copy}
    return dict(client.post(path, body))


def wait_release(client: Client, row: dict[str, Any]) -> dict[str, Any]:
    """Waits until a release is ready or rejected, with a progress bar; returns it as it is then."""
    path = release_path(row["family"], row["name"])
    with progress_bar(f"Reading {row['family']}/{row['name']}", None) as advance:
        done = 0
        while row["state"] == "ingesting":
            time.sleep(POLL_SECONDS)
            progress = client.get(f"/jobs/{segment(row['job'])}")["progress"] or {"done": done, "total": None}
            advance(progress["done"] - done, progress["total"])
            done = progress["done"]
            row = dict(client.get(path))
    return row
