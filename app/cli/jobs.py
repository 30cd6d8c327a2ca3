"""`portllm jobs | workers | events`: what is being done, by whom, and what happened."""

import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import typer

from app.cli.client import API, Client, connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.options import JobState
from app.cli.output import print_json, print_json_line, print_table, say
from app.cli.remote_command import remote

jobs = typer.Typer(no_args_is_help=True, help="Long work: list, look at, stop, start again.")

JobId = Annotated[str, typer.Argument(metavar="JOB")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="How many at most.")]
# Pauses between two connections of --follow, and the read timeout. A stream sends a keep-alive every 15 s.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, SILENT_SECONDS = 1.0, 30.0, 60.0
EVENT_COLUMNS = ("id", "at", "kind", "subject", "actor")


@jobs.command("ls")
@remote
def jobs_ls(
    limit: Limit = 50,
    state: JobState = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind, for example ingest.")] = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    items = list(islice(connect(as_json).pages("/jobs", state=state, kind=kind), limit))
    if as_json:
        print_json(items)
    else:
        rows = [
            (j["id"], j["state"], j["class_name"], _done(j["progress"]), j["created_at"], _missing(j) or _reason(j))
            for j in items
        ]
        print_table(("job", "state", "class", "done", "created", "problem"), rows)


@jobs.command("show")
@remote
def jobs_show(job: JobId, as_json: Json = False) -> None:
    """Show a job with its progress. Exit code 1 when it failed."""
    row = connect(as_json).get(f"/jobs/{segment(job)}")
    if as_json:
        print_json(row)
    else:
        say(" ".join(filter(None, [f"{job} is {row['state']}.", _missing(row), _done(row["progress"]), _reason(row)])))
    raise SystemExit(1 if row["state"] == "failed" else 0)


@jobs.command("cancel")
@remote
def jobs_cancel(job: JobId, as_json: Json = False) -> None:
    """Stop a job; its process ends within seconds."""
    row = connect(as_json).post(f"/jobs/{segment(job)}/cancel")
    print_json(row) if as_json else say(f"{job} is being cancelled.")


@jobs.command("retry")
@remote
def jobs_retry(job: JobId, as_json: Json = False) -> None:
    """Start a job that failed or was cancelled once more."""
    row = connect(as_json).post(f"/jobs/{segment(job)}/retry")
    print_json(row) if as_json else say(f"{row['id']} is {row['state']}.")


@remote
def workers(as_json: Json = False) -> None:
    """List workers with what they do; one that is dead is shown for a day. Needs scope admin."""
    items = connect(as_json).get("/workers")["items"]
    if as_json:
        print_json(items)
        return
    columns = ("worker", "class", "alive", "seen", "device", "memory", "version", "labels", "jobs")
    print_table(columns, [_worker_row(worker) for worker in items])


@remote
def events(
    after: Annotated[int, typer.Option(min=0, help="Only what happened after this event.")] = 0,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    follow: Annotated[
        bool, typer.Option(help="Go on with what happens from now on, until Ctrl-C; connects again when the connection ends.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what happened, oldest first. With --follow and --json: one JSON object a line."""
    client = connect(as_json)
    if follow:
        _follow(client, after, as_json)
        return
    items: list[dict[str, Any]] = []
    while len(items) < limit:
        page = client.get("/events", after=items[-1]["id"] if items else after, limit=min(500, limit - len(items)))["items"]
        if not page:
            break
        items += page
    print_json(items) if as_json else print_table(EVENT_COLUMNS, [[e[c] for c in EVENT_COLUMNS] for e in items])


def _follow(client: Client, after: int, as_json: bool) -> None:
    """Prints events as they happen. When a stream ends or its connection breaks, reconnects and continues after the last event.

    Raises:
        RefusedError: the service refuses for a reason that a retry does not resolve.
        httpx.TransportError: the first connection failed.
    """
    import httpx  # noqa: PLC0415

    last, pause, is_connected = after, FIRST_PAUSE_SECONDS, False
    while True:
        try:
            for line in _stream(client, last):
                is_connected, pause = True, FIRST_PAUSE_SECONDS
                if line is not None:
                    last = _print_event(line, as_json)
        except httpx.TransportError:
            if not is_connected:
                raise
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _stream(client: Client, after: int) -> Iterator[str | None]:
    """Reads one stream: yields None when it has begun, then the data of each event; yields nothing if the service is busy.

    Raises:
        RefusedError: the service refuses for a reason that a retry does not resolve.
    """
    headers = {"Accept": "text/event-stream"}
    asked = client.http.stream("GET", f"{API}/events", params={"after": after}, headers=headers, timeout=SILENT_SECONDS)
    with asked as response:
        if response.status_code in (429, 503):
            return
        client.check(response)
        yield None
        for line in response.iter_lines():
            if line.startswith("data: "):
                yield line.removeprefix("data: ")


def _print_event(text: str, as_json: bool) -> int:
    """Prints an event and returns its id."""
    event = json.loads(text)
    if as_json:
        print_json_line(text)
    else:
        say("  ".join(str(event[column]) for column in EVENT_COLUMNS))
        sys.stdout.flush()
    return int(event["id"])


def _worker_row(row: dict[str, Any]) -> tuple[str, ...]:
    labels, memory = " ".join(f"{k}={v}" for k, v in row["labels"].items()), f"{row['memory_bytes'] / 1e9:.0f} GB"
    alive, doing = "yes" if row["alive"] else "no", "\n".join(row["jobs"])
    return row["id"], row["class_name"], alive, row["seen_at"], row["device"], memory, row["version"], labels, doing


def _done(progress: dict[str, Any] | None) -> str:
    if not progress or not progress["total"]:
        return ""
    parts = [f"{progress['note']} {progress['done'] / progress['total']:.0%} of {progress['total']:,} bytes"]
    if progress["tensors_total"]:
        parts.append(f"{progress['tensors_done']} of {progress['tensors_total']} tensors")
    if progress["rate"]:
        parts.append(f"{progress['rate'] / 1e6:,.0f} MB/s")
    return ", ".join(parts)


def _missing(job: dict[str, Any]) -> str:
    missing = job.get("waiting_for")
    return f"No live worker takes jobs of class {missing}; start one with 'portllm worker --class {missing}'." if missing else ""


def _reason(job: dict[str, Any]) -> str:
    return f"{job['problem']['detail']} {job['problem']['remedy']}" if job["problem"] else ""
