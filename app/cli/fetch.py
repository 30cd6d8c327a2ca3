"""Downloading a published patch: verified by its digests, visible when complete."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from app.cli.client import API, Client, RefusedError
from app.cli.names import file_path, segment
from app.cli.output import progress_bar
from app.cli.partial import target_of
from app.cli.pull import CHUNK
from app.core.errors import OutputError
from app.domain.errors import DomainError


def fetch_patch(client: Client, path: str, version: str, out_dir: Path) -> dict[str, Any]:
    """Downloads the files of a version into a new directory; returns the version.

    Args:
        client: of the registry.
        path: of the patch, below /api/v1.
        version: a number, an alias, or "main".
        out_dir: where it appears.

    Raises:
        RefusedError: the registry's reasons; pull.digest.
        OutputError: output.exists.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise OutputError("output.exists", path=str(out_dir))
    row = _find(client, path, version)
    if row["state"] == "purged":
        raise DomainError("version.purged", patch=row["patch"], version=row["number"], reason=row["purge_reason"])
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        with progress_bar(f"Fetching {row['patch']}", row["total_bytes"]) as advance:
            for file in row["files"]:
                _fetch(
                    client,
                    f"{API}{path}/versions/{segment(row['number'])}/files/{file_path(file['path'])}",
                    file,
                    partial,
                    advance,
                )
        partial.chmod(0o755)
        partial.replace(out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
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


def _fetch(client: Client, url: str, file: dict[str, Any], partial: Path, advance: Any) -> None:
    target, hashed = target_of(partial, file["path"]), hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Where it is sent elsewhere, the token stays behind: httpx drops it for another origin.
    with client.http.stream("GET", url, follow_redirects=True) as response, target.open("wb") as out:
        client.check(response)
        for chunk in response.iter_raw(CHUNK):
            hashed.update(chunk)
            out.write(chunk)
            advance(len(chunk))
    if hashed.hexdigest() != file["sha256"]:
        raise RefusedError(
            "pull.digest", f"{file['path']} arrived with other bytes than were published. Run the same command again."
        )
