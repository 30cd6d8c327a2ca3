"""`portllm show`: all about a patch or a port."""

from typing import Any

from app.cli.client import Client, connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.output import print_json, print_table, say
from app.cli.ports import PORT_PREFIX, PortName, describe
from app.cli.releases_and_patches import full_path
from app.cli.remote_command import remote


@remote
def show(name: PortName, as_json: Json = False) -> None:
    """Show a patch with its versions, aliases and ports; or, by its id, a port with its findings and where it was written to."""
    client = connect(as_json)
    if name.startswith(PORT_PREFIX):
        _show_port(client, name, as_json)
    else:
        _show_patch(client, name, as_json)


def _show_patch(client: Client, name: str, as_json: bool) -> None:
    path = full_path(name, as_json)
    row = client.get(path)
    row["versions"] = list(client.pages(f"{path}/versions"))
    row["ports"] = list(client.pages("/ports", patch=name))
    if as_json:
        print_json(row)
        return
    say(f"{name} of family {row['family']}. {row['description']}".rstrip())
    columns = ("version", "state", "trained on", "rank", "bytes", "published")
    versions = [
        (v["number"], v["state"], v["trained_on"], (v["facts"] or {}).get("rank"), v["total_bytes"], v["published_at"])
        for v in row["versions"]
    ]
    print_table(columns, versions, "Versions")
    print_table(("alias", "version"), sorted(row["aliases"].items()), "Aliases")
    ports = [(p["release"], p["version"], p["state"], _percent(p["fidelity"]), p["id"]) for p in row["ports"]]
    print_table(("release", "version", "state", "fidelity", "id"), ports, "Ports")


def _percent(fidelity: dict[str, Any] | None) -> str:
    return f"{fidelity['overall']:.2%}" if fidelity else ""


def _show_port(client: Client, port_id: str, as_json: bool) -> None:
    path = f"/ports/{segment(port_id)}"
    row = client.get(path)
    row["materialisations"] = list(client.pages(f"{path}/materialisations"))
    if as_json:
        print_json(row)
        return
    describe(row)
    written = [(m["target"], m["state"], m["created_at"], m["id"]) for m in row["materialisations"]]
    print_table(("written to", "state", "asked for", "id"), written, "Materialisations")
