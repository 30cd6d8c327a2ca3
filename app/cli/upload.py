"""Publishing a patch: announce, send what is missing, publish."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from app.cli.client import API, TIMEOUT_SECONDS, Client, RefusedError
from app.cli.names import file_path, patch_path, release_path, segment
from app.cli.output import progress_bar
from app.core.checkpoint import list_files
from app.core.patch import read_patch
from app.core.source import DirectorySource
from app.domain.errors import DomainError
from app.domain.names import UNKNOWN

CHUNK = 2**20
ATTEMPTS = 4
# Temporary refusals of a publish: the same draft is already being verified, or all slots for publishes are taken.
COMES_BACK, PAUSE_SECONDS = ("request.under_way", "server.busy"), 2.0


def push_patch(client: Client, owner: str, name: str, directory: Path, family: str, trained_on: str) -> dict[str, Any]:
    """Publishes a directory as a version of a patch, which is created if it is new; returns the version.

    Nothing can remove a patch, so a new one is made last, when all has been checked that can be checked without it.

    Raises:
        RefusedError: the registry's reasons.
        CoreError: the directory is no patch that can be added; nothing was sent.
    """
    files = list_files(directory)
    with DirectorySource(directory) as source:
        kept = read_patch(source, files).files
    _require_release(client, family, trained_on)
    is_new = _is_new(client, owner, name)
    client.post("/patches", {"owner": owner, "name": name, "family": family})
    try:
        return _publish(client, owner, name, directory, files, kept, trained_on)
    except RefusedError as error:
        if not is_new:
            raise
        text = f"{error.message} The patch {owner}/{name} was made for it and stays, without a version; push to it again."
        raise RefusedError(error.code, text, error.exit_code) from None


def _require_release(client: Client, family: str, trained_on: str) -> None:
    """Refuses as the registry would, which looks at the release only when the patch is there."""
    if trained_on == UNKNOWN:
        return
    row = client.get(release_path(family, trained_on))
    if row["state"] == "yanked":
        raise DomainError("release.yanked", family=family, release=trained_on, reason=row["yank_reason"])
    if row["state"] != "ready":
        raise DomainError("release.not_ready", family=family, release=trained_on, state=row["state"])


def _is_new(client: Client, owner: str, name: str) -> bool:
    try:
        client.get(patch_path(owner, name))
    except RefusedError as error:
        if error.code != "patch.unknown":
            raise
        return True
    return False


def _publish(
    client: Client,
    owner: str,
    name: str,
    directory: Path,
    files: Mapping[str, int],
    kept: Mapping[str, int],
    trained_on: str,
) -> dict[str, Any]:
    announced = [
        {"path": path, "size": size, "sha256": _digest(directory / path) if path in kept else hashlib.sha256().hexdigest()}
        for path, size in files.items()
    ]
    draft = client.post(f"{patch_path(owner, name)}/versions", {"trained_on": trained_on, "files": announced})
    if draft["state"] != "draft":
        return dict(draft)
    with progress_bar(f"Sending {owner}/{name}", draft["total_bytes"]) as advance:
        for upload in draft["uploads"]:
            if upload["path"] not in kept:  # a registry that is none could ask for any file, to be sent anywhere
                raise RefusedError(
                    "push.path", f"The registry asks for a file {upload['path']!r}, which is not part of this push."
                )
            path = directory / upload["path"]
            if not (upload["direct"] and _send_direct(client, draft["id"], upload["path"], path, advance)):
                place = f"{API}/uploads/{segment(draft['id'])}/files/{file_path(upload['path'])}"
                _send(client, place, upload["size"], path, advance, upload["received"])
    return _published(client, draft["id"])


def _published(client: Client, draft: str) -> dict[str, Any]:
    """Publishes a draft. If an earlier request whose answer was lost is still in progress, waits and tries again."""
    give_up = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            return dict(client.post(f"/uploads/{segment(draft)}/publish"))
        except RefusedError as error:
            if error.code not in COMES_BACK or time.monotonic() > give_up:
                raise
        time.sleep(PAUSE_SECONDS)


def _send(client: Client, place: str, size: int, path: Path, advance: Callable[[int], None], offset: int) -> None:
    """Sends one file from an offset on; a broken connection is taken up again at what has arrived."""
    advance(offset)
    for attempt in range(ATTEMPTS):
        try:
            if attempt:
                head = client.check(client.http.head(place))
                offset = int(head.headers["Upload-Offset"])
            if offset < size:
                headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
                body = _chunks(path, offset, advance)
                client.check(client.http.patch(place, content=body, headers=headers))
            return
        except httpx.TransportError:
            if attempt == ATTEMPTS - 1:
                raise
        except RefusedError as error:
            if error.code != "upload.offset" or attempt == ATTEMPTS - 1:
                raise


def _send_direct(client: Client, draft: str, name: str, path: Path, advance: Callable[[int], None]) -> bool:
    """Sends one file straight to the object store; parts that broke off are sent again.

    Returns:
        False where the store cannot be reached from here: then the bytes go through the registry.
    """
    # A client of its own: our token is not for the store.
    with httpx.Client(timeout=client.http.timeout) as store, path.open("rb") as file:
        for attempt in range(ATTEMPTS):
            asked = client.post(f"/uploads/{segment(draft)}/direct", {"path": name})
            if attempt == 0:
                advance(path.stat().st_size - sum(part["size"] for part in asked["parts"]))
            try:
                for part in asked["parts"]:
                    file.seek(part["offset"])
                    answer = store.put(part["url"], content=file.read(part["size"]))
                    if not answer.is_success:
                        break
                    advance(part["size"])
                else:
                    return True
            except httpx.ConnectError:
                return False
            except httpx.TransportError:
                if attempt == ATTEMPTS - 1:
                    raise
    raise RefusedError("upload.store", f"The object store did not take {name}. Run the same command again.")


def _chunks(path: Path, offset: int, advance: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.read(CHUNK):
            yield chunk
            advance(len(chunk))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
