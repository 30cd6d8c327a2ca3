"""`portllm patch import`: patches from other hubs, one by one or all of an organisation, with a report for each."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import Client, connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.output import EXIT_USAGE, fail, fail_file, print_json, print_table, progress_bar, say
from app.cli.remote_command import remote
from app.cli.wait import Patience, Timeout

POLL_SECONDS = 0.5
AT_ONCE = 100
UNFINISHED = ("queued", "running")
DONE = ("imported", "present")


@remote
def patch_import(
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="UPSTREAM:ORG/NAME@REVISION", help="hf:org/adapter; hf:org/* for all of an organisation."),
    ] = None,
    listed: Annotated[Path | None, typer.Option("--list", help="A file with one of them in a line; # begins a comment.")] = None,
    owner: Annotated[str | None, typer.Option(help="Whose patches they become; default: the token's.")] = None,
    trained_on: Annotated[str | None, typer.Option(help='Release, or "unknown"; default: what the base\'s name says.')] = None,
    name: Annotated[str | None, typer.Option("--as", metavar="NAME", help="Name of the patch, where it is one.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until all have ended.")] = True,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Import adapters from another hub. Exit code 1 if one was refused; those that are here already are no failure."""
    wanted = [*(sources or []), *(_lines(listed, as_json) if listed else [])]
    if not wanted:
        fail("client.import", "Name at least one repository, for example hf:org/adapter, or --list FILE.", as_json, EXIT_USAGE)
    client = connect(as_json)
    body = {"owner": owner, "trained_on": trained_on, "name": name}
    batches = [
        client.post("/imports", {"sources": wanted[start : start + AT_ONCE], **body}) for start in range(0, len(wanted), AT_ONCE)
    ]
    total = sum(batch["count"] for batch in batches)
    rows = _follow(client, batches, total, timeout) if wait else _look(client, batches)
    _report(rows, as_json)
    if any(row["state"] not in (*DONE, *UNFINISHED) for row in rows):
        raise SystemExit(1)


def _lines(file: Path, as_json: bool) -> list[str]:
    try:
        text = file.read_text()
    except OSError as error:
        fail_file(error, as_json)
    except UnicodeDecodeError:
        fail("client.import", f"{file} is not a text file.", as_json, EXIT_USAGE)
    return [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]


def _follow(client: Client, batches: list[dict[str, Any]], total: int, timeout: float | None) -> list[dict[str, Any]]:
    """Waits until all imports have ended. Its messages, and the timeout, refer to the job of the first unfinished one."""
    patience = Patience(timeout)
    with progress_bar("Importing", total, "patches") as advance:
        done = 0
        while True:
            rows = _look(client, batches)
            ended = sum(row["state"] not in UNFINISHED for row in rows)
            advance(ended - done)
            done = ended
            if ended == len(rows):
                return rows
            first = next(row for row in rows if row["state"] in UNFINISHED)
            patience.look(client.get(f"/jobs/{segment(first['job'])}"))
            time.sleep(POLL_SECONDS)


def _look(client: Client, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order in which they were named."""
    return [row for batch in batches for row in reversed(list(client.pages("/imports", batch=batch["batch"])))]


def _report(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    lines = [(row["source"], row["state"], _version(row), _words(row)) for row in rows]
    print_table(("repository", "outcome", "version", "family, release or reason"), lines)
    states = [row["state"] for row in rows]
    say(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) + "." if states else "Nothing there.")


def _version(row: dict[str, Any]) -> str:
    return f"{row['patch']}@{row['version']}" if row["version"] else row["patch"]


def _words(row: dict[str, Any]) -> str:
    if row["problem"]:
        return f"{row['problem']['detail']} {row['problem']['remedy']} [{row['problem']['code']}]"
    facts = row["facts"] or {}
    return f"{facts['family']}, trained on {facts['trained_on']}" if facts else ""
