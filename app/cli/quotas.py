"""`portllm quota`: what owners have and may have."""

import re
from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.output import EXIT_USAGE, fail, print_json, print_table
from app.cli.remote_command import remote

quota = typer.Typer(no_args_is_help=True, help="What owners have and may have.")

KINDS = ("bytes", "patches", "versions", "drafts", "ports", "tokens", "jobs")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
DEFAULT = "default"
HELP = "A number, 0 for no limit, or 'default'."

Amount = Annotated[str | None, typer.Option(help=HELP)]


@quota.command("show")
@remote
def quota_show(
    owner: Annotated[str | None, typer.Argument(help="Whose; default: the owner of the token.")] = None, as_json: Json = False
) -> None:
    """Show what an owner has of everything that has a quota, and what it may have."""
    client = connect(as_json)
    whose = owner or client.get("/whoami")["owner"]
    _show(client.get(f"/owners/{segment(whose)}/usage"), as_json)


@quota.command("set")
@remote
def quota_set(
    owner: str,
    size: Annotated[str | None, typer.Option("--bytes", help="As 50GB or 20GiB, 0 for no limit, or 'default'.")] = None,
    patches: Amount = None,
    versions: Amount = None,
    drafts: Amount = None,
    ports: Amount = None,
    tokens: Amount = None,
    jobs: Amount = None,
    as_json: Json = False,
) -> None:
    """Set limits of one owner; those that are not named stay. Needs scope admin."""
    given = dict(zip(KINDS, (size, patches, versions, drafts, ports, tokens, jobs), strict=True))
    body = {
        kind: amount(text, UNITS if kind == "bytes" else {"": 1}, as_json) for kind, text in given.items() if text is not None
    }
    if not body:
        fail("client.quota", "Name at least one limit, for example --bytes 50GB.", as_json, EXIT_USAGE)
    _show(connect(as_json).put(f"/owners/{segment(owner)}/quota", body), as_json)


def amount(text: str, units: dict[str, int], as_json: bool = False) -> int | None:
    """A number with a unit; None for the word that means what holds for all."""
    if text == DEFAULT:
        return None
    found = re.fullmatch(r"([0-9]{1,15})([A-Za-z]*)", text)
    if found is None or found[2] not in units or int(found[1]) * units[found[2]] >= 2**63:
        example = "50GB, 20GiB" if len(units) > 1 else "100"
        fail("client.quota", f"{text!r} is not a limit; write {example}, 0 for none, or {DEFAULT!r}.", as_json, EXIT_USAGE)
    return int(found[1]) * units[found[2]]


def _show(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(row)
        return
    lines = [
        (kind, f"{row[kind]['used']:,}", "none" if row[kind]["limit"] is None else f"{row[kind]['limit']:,}", _whose(row[kind]))
        for kind in KINDS
    ]
    print_table(("what", "used", "limit", "set"), lines, f"Owner {row['owner']}")


def _whose(line: dict[str, Any]) -> str:
    return "for this owner" if line["own"] else "for all"
