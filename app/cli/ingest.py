"""Registering a release and following its ingestion."""

from pathlib import Path
from typing import Any

from app.cli.client import Client, RefusedError
from app.cli.names import release_path, segment
from app.cli.wait import follow
from app.domain.errors import DomainError
from app.domain.names import check_name, check_revision
from app.domain.upstreams import is_reference


def add_release(
    client: Client, family: str, name: str, source: str | Path, parent: str | None = None, copy: bool = False
) -> dict[str, Any]:
    """Registers a directory, an s3:// prefix or a repository of another hub as a release of a family, which is created if it is
    new; returns the release.

    Nothing can remove a family, so a new one is made last, when all has been checked that can be checked without it.

    Raises:
        RefusedError: the registry's reasons.
        DomainError: request.name, release.parent; nothing was made.
    """
    is_far = str(source).startswith("s3://") or is_reference(str(source))
    place = str(source) if is_far else str(Path(source).absolute())
    path, body = f"/families/{segment(family)}/releases", {"name": name, "directory": place, "parent": parent, "copy": copy}
    try:
        return dict(client.post(path, body))
    except RefusedError as error:
        if error.code != "family.unknown":
            raise
    _make_family(client, family, name, parent)
    try:
        return dict(client.post(path, body))
    except RefusedError as error:
        text = f"{error.message} The family {family!r} was made for it and stays, without a release; use it with the next."
        raise RefusedError(error.code, text, error.exit_code) from None


def _make_family(client: Client, family: str, release: str, parent: str | None) -> None:
    check_name(family, "a family")
    check_revision(release, "a release")
    if parent is not None:
        raise DomainError("release.parent", parent=parent[:100], family=family)
    try:
        client.post("/families", {"name": family})
    except RefusedError as error:
        if error.code != "family.taken":  # somebody was faster
            raise


def wait_release(client: Client, row: dict[str, Any], timeout: float | None = None) -> dict[str, Any]:
    """Waits, with a progress bar, until a release is ready or rejected, and returns its final state.

    Raises:
        RefusedError: client.timeout, if that takes longer than `timeout` seconds.
    """
    path = release_path(row["family"], row["name"])
    return follow(client, f"Reading {row['family']}/{row['name']}", row, path, ("ingesting",), timeout)
