"""`portllm upstream`: hubs that the registry pulls from."""

import sys
from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.output import EXIT_USAGE, fail, print_json, print_table, say
from app.cli.remote_command import remote

upstream = typer.Typer(no_args_is_help=True, help="Hubs that the registry pulls from; hf (huggingface.co) is always there.")

Hosts = list[str] | None


@upstream.command("add")
@remote
def upstream_add(
    name: str,
    endpoint: Annotated[str, typer.Option(help="Its address, as in HF_ENDPOINT.")],
    token_stdin: Annotated[bool, typer.Option("--token-stdin", help="Read a token for it from standard input.")] = False,
    private_host: Annotated[Hosts, typer.Option(help="A host that may lie in a private network; repeat for several.")] = None,
    http_host: Annotated[Hosts, typer.Option(help="A host that may be asked without TLS; repeat for several.")] = None,
    publishers: Annotated[bool, typer.Option("--publishers", help="Let publishers import from it, with its token.")] = False,
    as_json: Json = False,
) -> None:
    """Add an upstream, or say everything about one anew: a token that is not given again is forgotten. Needs scope admin."""
    body = {
        "endpoint": endpoint, "token": _token(as_json) if token_stdin else None, "private_hosts": private_host or [],
        "http_hosts": http_host or [], "publishers": publishers,
    }  # fmt: skip
    row = connect(as_json).put(f"/upstreams/{segment(name)}", body)
    print_json(row) if as_json else say(_sentence(row))


@upstream.command("ls")
@remote
def upstream_ls(as_json: Json = False) -> None:
    """List upstreams. Needs scope admin."""
    items = connect(as_json).get("/upstreams")["items"]
    if as_json:
        print_json(items)
        return
    rows = [(i["name"], i["endpoint"], _yes(i["has_token"]), _who(i), " ".join(i["private_hosts"])) for i in items]
    print_table(("name", "endpoint", "token", "for", "private hosts"), rows)


@upstream.command("show")
@remote
def upstream_show(name: str, as_json: Json = False) -> None:
    """Show one upstream; its token is never shown. Needs scope admin."""
    row = connect(as_json).get(f"/upstreams/{segment(name)}")
    print_json(row) if as_json else say(_sentence(row))


@upstream.command("rm")
@remote
def upstream_rm(name: str, as_json: Json = False) -> None:
    """Forget an upstream and its token; what was pulled from it stays. Needs scope admin."""
    row = connect(as_json).delete(f"/upstreams/{segment(name)}")
    print_json(row) if as_json else say(f"Upstream {row['name']} is forgotten.")


def _token(as_json: bool) -> str:
    token = sys.stdin.readline().strip()
    if not token:
        fail("client.token", "Nothing came on standard input. Send the token there, in one line.", as_json, EXIT_USAGE)
    return token


def _sentence(row: dict[str, Any]) -> str:
    return f"{row['name']} is {row['endpoint']}, {'with a' if row['has_token'] else 'without a'} token, for {_who(row)}."


def _who(row: dict[str, Any]) -> str:
    return "publishers and admins" if row["publishers"] else "admins"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
