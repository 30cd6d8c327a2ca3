"""`portllm gc`: removes bytes that nothing names."""

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
    """Remove bytes that nothing names, also while the service runs. What a draft will need stays, however old.

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
            with runtime.read() as uow:
                found = garbage_collection.look(uow, least)
            with found:
                total = garbage_collection.Removed(found.count, found.bytes)
                removed = total if dry_run else garbage_collection.remove_all(runtime.write, found, least)
        finally:
            runtime.stop()
    said = {
        "dry_run": dry_run, "found": total.count, "found_bytes": total.bytes, "oldest_seconds": found.oldest,
        "removed": 0 if dry_run else removed.count, "removed_bytes": 0 if dry_run else removed.bytes,
    }  # fmt: skip
    if as_json:
        print_json(said)
        return
    oldest = f", the oldest {found.oldest / 3600:,.1f} hours old" if found.oldest is not None else ""
    say(f"{total.count:,} that nothing names, {total.bytes:,} bytes{oldest}.")
    if not dry_run:
        say(f"{removed.count:,} were removed, {removed.bytes:,} bytes.")


def _seconds(text: str, as_json: bool) -> dt.timedelta:
    """A time like 1h; bytes exist for a moment before the row that names them is committed, so never less than a minute."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    length = dt.timedelta(seconds=int(found[1]) * UNITS[found[2]]) if found else dt.timedelta(0)
    if length < dt.timedelta(minutes=1):
        fail("client.grace", f"--grace is a number with s, m, h or d, at least 1m, not {text!r}.", as_json, EXIT_USAGE)
    return length
