"""`portllm purge`: the erasure of a patch version, and the proof of it."""

from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.names import patch_path, segment
from app.cli.offline import Json
from app.cli.output import EXIT_FAILED, EXIT_USAGE, fail, print_json, print_table, say
from app.cli.releases_and_patches import split_name
from app.cli.remote_command import remote


@remote
def purge(
    version: Annotated[str, typer.Argument(metavar="OWNER/NAME@N")],
    reason: Annotated[str | None, typer.Option(help="Why; stays for ever.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Ask the stores now what is there of a purged version.")] = False,
    as_json: Json = False,
) -> None:
    """Erase the bytes of a version everywhere, for good. Exit code 1 while anything is there that no other version has too."""
    name, at, number = version.rpartition("@")
    if not at or not (number.isascii() and number.isdigit()):
        fail("client.name", f"Name one version, OWNER/NAME@N, not {version!r}.", as_json, EXIT_USAGE)
    path = f"{patch_path(*split_name(name, as_json))}/versions/{segment(number)}"
    client = connect(as_json)
    if verify:
        erasure = client.get(f"{path}/erasure")
        _say(version, erasure, erasure, as_json)
    if not reason:
        fail("client.reason", "Say why with --reason.", as_json, EXIT_USAGE)
    if not yes and not typer.confirm(f"Erase {version}, its merged models and all copies of them, for good?", err=True):
        fail("client.declined", "Nothing was done.", as_json)
    row = client.post(f"{path}/purge", {"reason": reason})
    _say(version, row, row["erasure"], as_json)


def _say(version: str, row: dict[str, Any], erasure: dict[str, Any], as_json: bool) -> None:
    """Prints what became of it and ends."""
    done = erasure["state"] == "done"
    if as_json:
        print_json(row)
    else:
        parts = [(blob["digest"], blob) for blob in erasure["blobs"]] + [(copy["target"], copy) for copy in erasure["copies"]]
        print_table(("bytes", "state"), [(name, _state(part)) for name, part in parts])
        if done:
            say(f"{version} is purged: nothing of it is there but what others have too.")
        else:
            waits = f" {erasure['waits_for']}" if erasure["waits_for"] else ""
            say(f"{version} is not erased yet.{waits} The service goes on trying; ask again with --verify.")
    raise SystemExit(0 if done else EXIT_FAILED)


def _state(part: dict[str, Any]) -> str:
    if part["removed"]:
        return "removed"
    return f"kept for {part['kept_for']}" if part["kept_for"] else f"there: {part['problem']}"
