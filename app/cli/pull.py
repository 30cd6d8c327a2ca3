"""Downloading a merged model: resumable by Range, verified by size and digest, visible when complete."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from app.cli.client import API, TIMEOUT_SECONDS, Client, RefusedError
from app.cli.names import file_path, segment
from app.cli.output import progress_bar
from app.cli.partial import arrival_directory, finish, target_of
from app.core.errors import OutputError

ATTEMPTS = 5
CHUNK = 2**20
POLL_SECONDS = 0.3
TEMPORARY_REDIRECT = 307
WORKER_CONNECT_SECONDS = 3.0


def pull_port(client: Client, port: str, out_dir: Path, verify: bool) -> dict[str, Any]:
    """Downloads all files of a port into a new directory.

    The files arrive in a hidden directory beside it, which a later call takes up again if it is of the same port.

    Raises:
        RefusedError: the registry's reasons; pull.digest when bytes are not what they should be; pull.busy.
        OutputError: output.exists, output.no_space.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise OutputError("output.exists", path=str(out_dir))
    listing = client.get(f"/ports/{segment(port)}/files")
    for file in listing["files"]:
        target_of(out_dir, file["path"])
    # Asked for at the start, so that the service computes the digests while the files are on their way.
    job = (
        client.post(f"/ports/{segment(port)}/digest")["job"] if verify and any(f["computed"] for f in listing["files"]) else None
    )
    with arrival_directory(out_dir, listing) as partial:
        with progress_bar(f"Pulling {port}", listing["total_bytes"]) as advance:
            for file in listing["files"]:
                _fetch(client, port, file, partial, advance)
        if job:
            _wait(client, job)
            listing = client.get(f"/ports/{segment(port)}/files")
        _verify(partial, listing["files"])
        finish(partial, out_dir)
    verified = all(f["sha256"] for f in listing["files"])
    return {"port": port, "out": str(out_dir), "bytes": listing["total_bytes"], "verified": verified, "files": listing["files"]}


def _fetch(client: Client, port: str, file: dict[str, Any], partial: Path, advance: Callable[[int], None]) -> None:
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
            _continue(client, f"{API}/ports/{segment(port)}/files/{file_path(file['path'])}", file, target, offset, advance)
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
    headers = {"Range": f"bytes={offset}-", "If-Range": f'"{file["etag"]}"'} if offset else {}
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
    """Reads where the registry says: itself, or a worker; from the registry again where that worker does not answer us.

    A worker's address is signed and stands for itself. The token is the registry's alone and is never sent elsewhere.
    """
    with ExitStack() as stack:
        response = stack.enter_context(client.http.stream("GET", url, headers=headers))
        if response.status_code == TEMPORARY_REDIRECT:
            elsewhere = _on_worker(stack, response.headers.get("Location", ""), headers)
            response = elsewhere or stack.enter_context(client.http.stream("GET", f"{url}?redirect=false", headers=headers))
        client.check(response)
        yield response


def _on_worker(stack: ExitStack, location: str, headers: dict[str, str]) -> httpx.Response | None:
    if not location.startswith(("http://", "https://")):
        return None
    timeout = httpx.Timeout(TIMEOUT_SECONDS, connect=WORKER_CONNECT_SECONDS)
    try:
        response = stack.enter_context(httpx.stream("GET", location, headers=headers, timeout=timeout))
    except (httpx.TransportError, httpx.InvalidURL):
        return None
    return response if response.is_success else None


def _wait(client: Client, job: str) -> None:
    while True:
        status = client.get(f"/jobs/{segment(job)}")
        if status["state"] in ("done", "failed", "cancelled"):
            break
        time.sleep(POLL_SECONDS)
    if status["state"] != "done":
        problem = status["problem"] or {"code": "job.cancelled", "detail": "The digest job was cancelled.", "remedy": "Retry."}
        raise RefusedError(problem["code"], f"{problem['detail']} {problem['remedy']}")


def _verify(partial: Path, files: list[dict[str, Any]]) -> None:
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
