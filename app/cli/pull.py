"""Downloading a merged model: resumable by Range, verified by size and digest, visible when complete."""

from pathlib import Path
from typing import Any

from app.cli.client import API, Client
from app.cli.download import fetch_file, verify
from app.cli.names import file_path, segment
from app.cli.output import progress_bar
from app.cli.partial_download import arrival_directory, finish, require_unused, target_of
from app.cli.wait import wait_digests


def pull_port(
    client: Client, port: str, out_dir: Path, compute_digests: bool, timeout: float | None = None
) -> dict[str, Any]:  # fmt: skip
    """Downloads all files of a port into a new directory.

    The files arrive in a hidden directory beside it, which a later call for the same port resumes. When all files have
    arrived, it waits for their digests for at most `timeout` seconds.

    Raises:
        RefusedError: the registry's reasons; pull.digest when bytes are not what they should be; pull.busy; client.timeout.
        OutputError: output.exists, output.no_space.
    """
    require_unused(out_dir)
    listing = client.get(f"/ports/{segment(port)}/files")
    for file in listing["files"]:
        target_of(out_dir, file["path"])
    # Asked for at the start, so that the service computes the digests while the files are on their way.
    compute = compute_digests and any(f["computed"] for f in listing["files"])
    job = client.post(f"/ports/{segment(port)}/digest")["job"] if compute else None
    with arrival_directory(out_dir, listing) as partial:
        with progress_bar(f"Pulling {port}", listing["total_bytes"]) as advance:
            for file in listing["files"]:
                url = f"{API}/ports/{segment(port)}/files/{file_path(file['path'])}"
                fetch_file(client, url, file, partial, advance)
        if job:
            wait_digests(client, job, "Comparing digests", timeout)
            listing = client.get(f"/ports/{segment(port)}/files")
        verify(partial, listing["files"])
        finish(partial, out_dir)
    verified = all(f["sha256"] for f in listing["files"])
    return {"port": port, "out": str(out_dir), "bytes": listing["total_bytes"], "verified": verified, "files": listing["files"]}
