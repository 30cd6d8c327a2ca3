"""`portllm serving`: which engines can serve a port."""

import shlex
from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.output import print_json, print_table, say
from app.cli.ports import PORT_PREFIX, PortName, Version, choose_port
from app.cli.remote_command import remote

# Values that refer to the user's own environment variables. All other values are untrusted text from the registry and are quoted.
REFERENCES = frozenset({"$PORTLLM_URL", "$PORTLLM_TOKEN"})


@remote
def serving(
    name: PortName,
    on: Annotated[str | None, typer.Option(help="Release of the port; not with a port's id.")] = None,
    version: Version = None,
    as_json: Json = False,
) -> None:
    """Say which engines can serve a port, why not, and how to start them. Exit code 1 when none can."""
    client = connect(as_json)
    ident = name if name.startswith(PORT_PREFIX) else choose_port(client, name, version, on, as_json)["id"]
    row = client.get(f"/ports/{segment(ident)}/serving.json")
    print_json(row) if as_json else _describe(row)
    raise SystemExit(0 if row["servable"] else 1)


def _describe(row: dict[str, Any]) -> None:
    say(f"{row['patch']} version {row['version']} on {row['release']}: {row['state']}.")
    options = row["options"]
    print_table(("engine", "mode", "can serve it"), [(o["engine"], o["mode"], "yes" if o["servable"] else "no") for o in options])
    reasons = [(o["name"], r["severity"], r["code"], r["message"]) for o in options for r in o["reasons"]]
    if reasons:
        print_table(("option", "severity", "code", "reason"), reasons)
    for option in options:
        for launch in option["launches"]:
            say()
            say(f"{option['name']}:")
            for variable, value in launch["environment"].items():
                say(f"  export {shlex.quote(variable)}={_quoted(value)}")
            for command in launch["commands"]:
                say(f"  {shlex.join(command)}")


def _quoted(value: str) -> str:
    return f'"{value}"' if value in REFERENCES else shlex.quote(value)
