"""`portllm gc`: removes unreferenced bytes."""

import dataclasses
import datetime as dt
import re
from typing import Annotated

import typer

from app.cli.db import HERE, Data, database_refusals, require_database
from app.cli.load_settings import read_settings
from app.cli.offline import Json
from app.cli.output import EXIT_USAGE, fail, print_json, say

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def gc(
    data: Data = HERE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    grace: Annotated[str, typer.Option(help="How old bytes must be: 30m, 1h, 2d; at least a minute.")] = "1h",
    as_json: Json = False,
) -> None:
    """Remove bytes that nothing references, also while the service runs. Bytes of open drafts are kept regardless of their age.

    A running service does the same every hour.
    """
    from app.runtime import Runtime  # noqa: PLC0415  the service's libraries
    from app.services.operations import garbage_collection  # noqa: PLC0415

    least = _seconds(grace, as_json)
    settings = read_settings(data, as_json)
    require_database(settings, as_json)
    with database_refusals(as_json):
        runtime = Runtime(settings)
        runtime.look()
        try:
            collected = garbage_collection.collect(runtime.read, runtime.write, least, dry_run)
        finally:
            runtime.stop()
    if as_json:
        shown = dataclasses.asdict(collected)
        print_json({"dry_run": dry_run, "oldest_seconds": shown.pop("oldest"), **shown})
        return
    oldest = f", the oldest {collected.oldest / 3600:,.1f} hours old" if collected.oldest is not None else ""
    say(f"{collected.found:,} blobs are unreferenced, {collected.found_bytes:,} bytes{oldest}.")
    if not dry_run:
        say(f"{collected.removed:,} were removed, {collected.removed_bytes:,} bytes.")


def _seconds(text: str, as_json: bool) -> dt.timedelta:
    """A time like 1h; bytes exist for a moment before the row that names them is committed, so never less than a minute."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    length = dt.timedelta(seconds=int(found[1]) * UNITS[found[2]]) if found else dt.timedelta(0)
    if length < dt.timedelta(minutes=1):
        fail("client.grace", f"--grace is a number with s, m, h or d, at least 1m, not {text!r}.", as_json, EXIT_USAGE)
    return length
