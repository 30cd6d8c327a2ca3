"""`portllm port | approve | retire | pull | digest`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import Client, RefusedError, connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.options import Dtype, Strategy, Tokenizer
from app.cli.output import EXIT_USAGE, fail, print_json, print_table, say
from app.cli.releases_and_patches import PatchName, split_name
from app.cli.remote_command import remote
from app.cli.wait import Timeout, wait_digests
from app.core.recipe import PLAIN

PortName = Annotated[str, typer.Argument(metavar="OWNER/NAME|PORT")]
PORT_PREFIX = "prt_"
Version = Annotated[str | None, typer.Option(help="Version number or alias; default: the newest.")]


@remote
def port(
    name: PatchName,
    to: Annotated[str, typer.Option(help="Release to carry the patch to.")],
    version: Version = None,
    dtype: Dtype = None,
    tokenizer: Tokenizer = "release",
    strategy: Strategy = PLAIN.strategy,
    force: Annotated[str | None, typer.Option(help="A reason why a lineage finding does not hold.")] = None,
    check: Annotated[bool, typer.Option(help="Only say what would be; store nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Carry a patch to a release. Exit code 1 when it is refused or held."""
    split_name(name, as_json)
    body = {
        "patch": name, "release": to, "version": version, "force": force,
        "recipe": {"strategy": strategy, "dtype": dtype, "tokenizer": tokenizer},
    }  # fmt: skip
    row = connect(as_json).post("/ports/check" if check else "/ports", body)
    if as_json:
        print_json(row)
    else:
        describe(row)
    raise SystemExit(0 if row["state"] == "ready" else 1)


@remote
def approve(port_id: str, reason: Annotated[str, typer.Option(help="Why the port may be used.")], as_json: Json = False) -> None:
    """Let a held port become ready."""
    row = connect(as_json).post(f"/ports/{segment(port_id)}/approve", {"reason": reason})
    print_json(row) if as_json else say(f"{row['id']} is {row['state']}.")


@remote
def retire(port_id: str, as_json: Json = False) -> None:
    """Take a port out of use: its merged model is not handed out any more."""
    row = connect(as_json).post(f"/ports/{segment(port_id)}/retire")
    print_json(row) if as_json else say(f"{row['id']} is {row['state']}.")


@remote
def pull(
    name: PortName,
    out_dir: Path,
    on: Annotated[str | None, typer.Option(help="Release to read the merged model on; not with a port's id.")] = None,
    version: Version = None,
    verify: Annotated[bool, typer.Option(help="Have the service compute the digests of computed files and compare.")] = True,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Download a merged model into a directory that from_pretrained loads. Run it again to go on after a break."""
    from app.cli.pull import pull_port  # noqa: PLC0415  httpx; see app.cli.client

    client = connect(as_json)
    chosen = choose_port(client, name, version, on, as_json)
    result = pull_port(client, chosen["id"], out_dir, verify, timeout)
    if as_json:
        print_json(result)
    else:
        verified = "verified" if result["verified"] else "sizes verified"
        model = f"{chosen['patch']} on {chosen['release']}"
        say(f"{out_dir}: {model}, {len(result['files'])} files, {result['bytes']:,} bytes, {verified}.")


@remote
def digest(
    name: PortName,
    on: Annotated[str | None, typer.Option(help="Release of the merged model; not with a port's id.")] = None,
    version: Version = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Have the service compute the digests of a merged model, once; prints them as `sha256sum --check` reads them."""
    client = connect(as_json)
    path = f"/ports/{segment(choose_port(client, name, version, on, as_json)['id'])}"
    if job := client.post(f"{path}/digest")["job"]:
        wait_digests(client, job, f"Merging {name}", timeout)
    files = client.get(f"{path}/files")["files"]
    if as_json:
        print_json({"port": client.get(path), "files": files})
        return
    for file in files:
        say(f"{file['sha256']}  {file['path']}")


def choose_port(client: Client, name: str, version: str | None, on: str | None, as_json: bool) -> dict[str, Any]:
    """The port that is meant by its id, or by a patch's name: plain addition in the release's own dtype."""
    if name.startswith(PORT_PREFIX):
        row = dict(client.get(f"/ports/{segment(name)}"))
        if row["state"] == "held":
            raise _held(row)
        return row
    split_name(name, as_json)
    if on is None:
        fail("client.release", f"Say which release {name} should be read on: --on RELEASE.", as_json, EXIT_USAGE)
    found = list(client.pages("/ports", patch=name, version=version or "main", release=on, state="ready"))
    plain = [port for port in found if port["recipe"] == PLAIN.to_dict()]
    if not plain and (held := _plain_held(client, name, version or "main", on)):
        raise _held(held)
    if not found:
        fail("port.none", f"{name} has no ready port on {on}. Make one with 'portllm port {name} --to {on}'.", as_json)
    if not plain:
        ids = ", ".join(f"{p['id']} ({_recipe(p['recipe'])})" for p in found[:5])
        fail("client.recipe", f"{name} is on {on} only with other recipes. Pull one by its id: {ids}.", as_json, EXIT_USAGE)
    return plain[0]


def _plain_held(client: Client, name: str, version: str, on: str) -> dict[str, Any] | None:
    held = client.pages("/ports", patch=name, version=version, release=on, state="held")
    return next((port for port in held if port["recipe"] == PLAIN.to_dict()), None)


def _held(port: dict[str, Any]) -> RefusedError:
    why = " ".join(f["message"] for f in port["findings"] if f["severity"] != "info")
    text = f"{port['patch']} on {port['release']} is held. {why} Let it through with 'portllm approve {port['id']} --reason ...'."
    return RefusedError("port.not_ready", text)


def _recipe(recipe: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in recipe.items() if value != getattr(PLAIN, key))


def describe(row: dict[str, Any]) -> None:
    """Tells people what a port is, or would be, and why."""
    say(f"{row['patch']} version {row['version']} on {row['release']}: {row['state']}.")
    print_table(("severity", "code", "finding"), [(f["severity"], f["code"], f["message"]) for f in row["findings"]])
    if row["fidelity"]:
        kind = "sampled" if row["fidelity"]["sampled"] else "exact"
        say(f"Merge fidelity {row['fidelity']['overall']:.4f} ({kind}).")
    say(f"Fingerprint {row['fingerprint']}" + (f", port {row['id']}" if "id" in row else ""))
