"""Waiting for work of the service, with its progress as a bar."""

import time
from collections.abc import Collection
from typing import Annotated, Any

import typer

from app.cli.client import Client, RefusedError
from app.cli.names import segment
from app.cli.output import progress_bar, say

POLL_SECONDS = 0.3
UNFINISHED = ("queued", "running")
Timeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, help="Stop waiting after so long, with exit code 1; the job goes on. Default: never."),
]


class Patience:
    """Limits how long a command waits for jobs, and prints a message if no worker takes them.

    Args:
        seconds: the longest wait; None for no limit.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds, self._until = seconds, None if seconds is None else time.monotonic() + seconds
        self._told: set[str] = set()

    def look(self, job: dict[str, Any]) -> None:
        """Prints a message, once for each class, if a job waits for a class of workers of which none is live.

        Raises:
            RefusedError: client.timeout, if the time limit has passed.
        """
        missing = job.get("waiting_for")  # older services do not send it
        if missing and missing not in self._told:
            self._told.add(missing)
            say(
                f"{job['id']} waits: no live worker takes jobs of class {missing}. Start one with "
                f"'portllm worker --class {missing}', or look at 'portllm workers'.", err=True,
            )  # fmt: skip
        if self._until is not None and time.monotonic() >= self._until:
            why = f", because no live worker takes jobs of class {missing}" if missing else ""
            text = f"{job['id']} is {job['state']} after {self._seconds:g} s{why}. It goes on without this command"
            raise RefusedError("client.timeout", f"{text}; look at it with 'portllm jobs show {job['id']}'.")


def follow(
    client: Client, label: str, row: dict[str, Any], path: str, unfinished: Collection[str] = UNFINISHED,
    timeout: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Waits until a thing that a job makes is made, or has failed.

    Args:
        client: of the service.
        label: what the bar says.
        row: the thing as it is now, with its "state" and "job".
        path: where it is read again.
        unfinished: states in which it is waited for.
        timeout: the longest wait in seconds; None for no limit.

    Returns:
        The thing as it is then.

    Raises:
        RefusedError: client.timeout.
    """
    path_of_job, patience = f"/jobs/{segment(row['job'])}", Patience(timeout)
    with progress_bar(label, None) as advance:
        done = 0
        while row["state"] in unfinished:
            time.sleep(POLL_SECONDS)
            job = client.get(path_of_job)
            progress = job["progress"] or {"done": done, "total": None}
            advance(progress["done"] - done, progress["total"])
            done = progress["done"]
            row = dict(client.get(path))
            if row["state"] in unfinished:
                patience.look(job)
    return row


def wait_digests(client: Client, job: str, label: str, timeout: float | None = None) -> None:
    """Waits until the digests of a merged model are computed.

    Raises:
        RefusedError: the digests cannot be computed (the code says why); client.timeout.
    """
    path = f"/jobs/{segment(job)}"
    row = follow(client, label, {**client.get(path), "job": job}, path, timeout=timeout)
    if row["state"] != "done":
        problem = row["problem"] or {"code": "job.cancelled", "detail": "The digest job was cancelled.", "remedy": "Retry."}
        raise RefusedError(problem["code"], f"{problem['detail']} {problem['remedy']}")
