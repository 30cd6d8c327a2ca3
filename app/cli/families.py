"""`portllm family`: families, and who may see them."""

from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.output import print_json, say
from app.cli.remote_command import remote

family = typer.Typer(no_args_is_help=True, help="Families of base models, and who may see them.")

Reader = Annotated[str, typer.Argument(metavar="OWNER", help="An owner, or '*' for everybody.")]


@family.command("create")
@remote
def family_create(
    name: str,
    description: Annotated[str, typer.Option(help="What it is.")] = "",
    reader: Annotated[list[str] | None, typer.Option(help="An owner that may see it, or '*'; repeat for several.")] = None,
    as_json: Json = False,
) -> None:
    """Create a family, which only admins see until it is granted to others."""
    row = connect(as_json).post("/families", {"name": name, "description": description, "readers": reader or []})
    print_json(row) if as_json else say(f"Family {row['name']} is there.")


@family.command("grant")
@remote
def family_grant(name: str, owner: Reader, as_json: Json = False) -> None:
    """Let an owner see a family, port to its releases and read models merged with them."""
    _show(connect(as_json).put(_path(name, owner), {}), as_json)


@family.command("withdraw")
@remote
def family_withdraw(name: str, owner: Reader, as_json: Json = False) -> None:
    """Take a grant back, at once."""
    _show(connect(as_json).delete(_path(name, owner)), as_json)


@family.command("grants")
@remote
def family_grants(name: str, as_json: Json = False) -> None:
    """List who may see a family, besides admins."""
    _show(connect(as_json).get(f"/families/{segment(name)}/grants"), as_json)


def _path(name: str, owner: str) -> str:
    return f"/families/{segment(name)}/grants/{segment(owner)}"


def _show(row: dict[str, object], as_json: bool) -> None:
    readers = row["readers"]
    assert isinstance(readers, list)  # noqa: S101
    print_json(row) if as_json else say(f"{row['family']} is seen by admins{''.join(f', {r}' for r in readers)}.")
