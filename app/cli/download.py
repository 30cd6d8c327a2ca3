"""One file of the registry to disk: by range from where it broke off, from wherever it is sent to, verified."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.cli.client import TIMEOUT_SECONDS, Client, RefusedError
from app.cli.partial_download import target_of

ATTEMPTS = 5
CHUNK = 2**20
TEMPORARY_REDIRECT = 307
ELSEWHERE_CONNECT_SECONDS = 3.0


def fetch_file(client: Client, url: str, file: dict[str, Any], partial: Path, advance: Callable[[int], None]) -> None:
    """Brings a file of a listing into the directory where it arrives; what is there already is not sent again.

    Args:
        client: of the registry.
        url: of the file, from the registry's root.
        file: its "path" and "size", and its "etag" where it can become another.
        partial: the directory.
        advance: told how many bytes more are there.

    Raises:
        RefusedError: the registry's reasons; pull.size.
    """
    target = target_of(partial, file["path"])
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        offset = target.stat().st_size if target.is_file() else 0
        if offset > file["size"]:
            target.unlink()
            offset = 0
        if attempt == 0:
            advance(offset)
        if offset == file["size"] and target.is_file():
            return
        try:
            _continue(client, url, file, target, offset, advance)
        except httpx.TransportError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(min(2.0**attempt, 10))
        except RefusedError as error:
            if error.code != "server.busy" or attempt == ATTEMPTS - 1:
                raise
            time.sleep(2)
    if target.stat().st_size != file["size"]:
        raise RefusedError("pull.size", f"{file['path']} arrived with {target.stat().st_size} of {file['size']} bytes.")


def _continue(client: Client, url: str, file: dict[str, Any], target: Path, offset: int, advance: Callable[[int], None]) -> None:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    if offset and "etag" in file:
        headers["If-Range"] = f'"{file["etag"]}"'
    with _read(client, url, headers) as response:
        resumed = response.status_code == 206
        if not resumed:
            advance(-offset)
        room = file["size"] - (offset if resumed else 0)
        with target.open("ab" if resumed else "wb") as out:
            for chunk in response.iter_raw(CHUNK):
                room -= len(chunk)
                if room < 0:
                    raise RefusedError("pull.size", f"{file['path']} is longer than the {file['size']} bytes it should have.")
                out.write(chunk)
                advance(len(chunk))
            out.flush()
            os.fsync(out.fileno())


@contextmanager
def _read(client: Client, url: str, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """Reads where the registry says: itself, a worker or a store; from the registry again where that does not answer us.

    Their addresses are signed and stand for themselves. The token is the registry's alone and is never sent elsewhere.
    """
    with ExitStack() as stack:
        response = stack.enter_context(client.http.stream("GET", url, headers=headers))
        if response.status_code == TEMPORARY_REDIRECT:
            other = _elsewhere(stack, response.headers.get("Location", ""), headers)
            response = other or stack.enter_context(client.http.stream("GET", f"{url}?redirect=false", headers=headers))
        client.check(response)
        yield response


def _elsewhere(stack: ExitStack, location: str, headers: dict[str, str]) -> httpx.Response | None:
    if not location.startswith(("http://", "https://")):
        return None
    timeout = httpx.Timeout(TIMEOUT_SECONDS, connect=ELSEWHERE_CONNECT_SECONDS)
    try:
        response = stack.enter_context(httpx.stream("GET", location, headers=headers, timeout=timeout))
    except (httpx.TransportError, httpx.InvalidURL):
        return None
    return response if response.is_success else None


def verify(partial: Path, files: Sequence[dict[str, Any]]) -> None:
    """Compares what arrived with a listing.

    Raises:
        RefusedError: pull.size; pull.digest, and the file is removed.
    """
    for file in files:
        target = target_of(partial, file["path"])
        if file["size"] != target.stat().st_size:
            raise RefusedError("pull.size", f"{file['path']} has {target.stat().st_size} of {file['size']} bytes.")
        if file["sha256"]:
            with target.open("rb") as arrived:
                actual = hashlib.file_digest(arrived, "sha256").hexdigest()
            if actual != file["sha256"]:
                target.unlink()
                text = f"{file['path']} has sha256 {actual}, not {file['sha256']}; it was removed. Run the same command again."
                raise RefusedError("pull.digest", text)
