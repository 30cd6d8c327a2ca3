"""Waiting for work of the service, with its progress as a bar."""

import time
from collections.abc import Collection
from typing import Any

from app.cli.client import Client, RefusedError
from app.cli.names import segment
from app.cli.output import progress_bar

POLL_SECONDS = 0.3
UNFINISHED = ("queued", "running")


def follow(
    client: Client, label: str, row: dict[str, Any], path: str, unfinished: Collection[str] = UNFINISHED
) -> dict[str, Any]:
    """Waits until a thing that a job makes is made, or has failed.

    Args:
        label: what the bar says.
        row: the thing as it is now, with its "state" and "job".
        path: where it is read again.
        unfinished: states in which it is waited for.

    Returns:
        The thing as it is then.
    """
    job = f"/jobs/{segment(row['job'])}"
    with progress_bar(label, None) as advance:
        done = 0
        while row["state"] in unfinished:
            time.sleep(POLL_SECONDS)
            progress = client.get(job)["progress"] or {"done": done, "total": None}
            advance(progress["done"] - done, progress["total"])
            done = progress["done"]
            row = dict(client.get(path))
    return row


def wait_digests(client: Client, job: str, label: str) -> None:
    """Waits until the digests of a merged model are computed.

    Raises:
        RefusedError: they will not be; its code says why.
    """
    path = f"/jobs/{segment(job)}"
    row = follow(client, label, {**client.get(path), "job": job}, path)
    if row["state"] != "done":
        problem = row["problem"] or {"code": "job.cancelled", "detail": "The digest job was cancelled.", "remedy": "Retry."}
        raise RefusedError(problem["code"], f"{problem['detail']} {problem['remedy']}")
