"""`portllm materialise`: a merged model written to a place of one's own."""

from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.output import fail_row, print_json, say
from app.cli.ports import PortName, Version, choose_port
from app.cli.remote_command import remote
from app.cli.wait import Timeout, follow


@remote
def materialise(
    name: PortName,
    to: Annotated[str, typer.Option(metavar="s3://BUCKET/PREFIX", help="Where to write it; below a place that an admin listed.")],
    on: Annotated[str | None, typer.Option(help="Release to read the merged model on; not with a port's id.")] = None,
    version: Version = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is written.")] = True,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Write a merged model to S3. What the patch does not touch is copied inside S3 where the release lies there too."""
    client = connect(as_json)
    port = choose_port(client, name, version, on, as_json)
    row = client.post(f"/ports/{segment(port['id'])}/materialise", {"to": to})
    if wait:
        path = f"/materialisations/{segment(row['id'])}"
        row = follow(client, f"Writing {row['target']}", row, path, timeout=timeout)
    failed = row["state"] in ("failed", "cancelled")
    if as_json:
        if not failed:
            print_json(row)
    elif row["state"] == "done":
        copied, moved = row["result"]["bytes_copied"], row["result"]["bytes_moved"]
        say(f"{row['target']}: {len(row['result']['files'])} files, {copied:,} bytes copied inside S3, {moved:,} moved.")
    else:
        say(f"{row['target']} is {row['state']}; its job is {row['job']}.")
    if failed:
        fail_row(row, as_json)
