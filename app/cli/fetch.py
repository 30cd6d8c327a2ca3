"""Downloading a published patch: verified by its digests, visible when complete."""

from pathlib import Path
from typing import Any

from app.cli.client import API, Client, RefusedError
from app.cli.download import fetch_file, verify
from app.cli.names import file_path, segment
from app.cli.output import progress_bar
from app.cli.partial_download import arrival_directory, finish, require_unused
from app.domain.errors import DomainError


def fetch_patch(client: Client, path: str, version: str, out_dir: Path) -> dict[str, Any]:
    """Downloads the files of a version into a new directory; returns the version.

    As `app.cli.pull.pull_port` does: what arrived before a break is taken up again.

    Args:
        client: of the registry.
        path: of the patch, below /api/v1.
        version: a number, an alias, or "main".
        out_dir: where it appears.

    Raises:
        RefusedError: the registry's reasons; pull.digest; pull.busy.
        OutputError: output.exists, output.no_space.
    """
    require_unused(out_dir)
    row = _find(client, path, version)
    if row["state"] == "purged":
        raise DomainError("version.purged", patch=row["patch"], version=row["number"], reason=row["purge_reason"])
    with arrival_directory(out_dir, {"files": row["files"], "fingerprint": row["digest"]}) as partial:
        with progress_bar(f"Fetching {row['patch']}", row["total_bytes"]) as advance:
            for file in row["files"]:
                url = f"{API}{path}/versions/{segment(row['number'])}/files/{file_path(file['path'])}"
                fetch_file(client, url, file, partial, advance)
        verify(partial, row["files"])
        finish(partial, out_dir)
    return row


def _find(client: Client, path: str, version: str) -> dict[str, Any]:
    if version.isascii() and version.isdigit():
        return dict(client.get(f"{path}/versions/{segment(version)}"))
    patch = client.get(path)
    if version in patch["aliases"]:
        return dict(client.get(f"{path}/versions/{segment(patch['aliases'][version])}"))
    if version != "main":
        raise RefusedError("alias.unknown", f"The patch has no alias {version!r}. See its aliases with 'portllm show'.")
    for row in client.pages(f"{path}/versions"):
        if row["state"] == "published":
            return row
    raise RefusedError("version.none", "The patch has no published version. Publish one with 'portllm patch push'.")
