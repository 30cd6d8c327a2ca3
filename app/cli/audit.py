"""`portllm audit`: the audit trail, for files and for other programs."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from app.cli.client import API, connect
from app.cli.remote_command import remote
from app.text import visible_json


@remote
def audit(
    after: Annotated[int, typer.Option(min=0, help="Only what happened after the line with this id.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A file to add the lines to; default: standard output.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Errors as JSON too; the lines always are.")] = False,
) -> None:
    """Export who did what to what, when and from where, as JSON lines. Needs scope operate; an admin sees all owners."""
    client = connect(as_json)
    with client.http.stream("GET", f"{API}/audit", params={"after": after}) as response:
        client.check(response)
        with out.open("a") if out else nullcontext(sys.stdout) as file:
            for line in response.iter_lines():
                file.write(f"{visible_json(line)}\n")
