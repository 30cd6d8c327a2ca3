"""`portllm family alias`: what others call our bases."""

from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.output import fail, print_json, say
from app.cli.releases_and_patches import show_list
from app.cli.remote_command import remote

alias = typer.Typer(no_args_is_help=True, help="What others call a base: upstream names, mirrors, renamed repositories.")

Called = Annotated[str, typer.Argument(metavar="NAME", help="Such as meta-llama/Meta-Llama-3-8B.")]
Revision = Annotated[str | None, typer.Option(help="The one revision there that is meant; default: all.")]
COLUMNS = ("family", "release", "name", "revision")


@alias.command("add")
@remote
def alias_add(
    family: str,
    name: Called,
    release: Annotated[str | None, typer.Option(help="Which release that is; default: the family alone.")] = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Say what others call a family or a release, so that patches tell by it what they were trained on."""
    row = connect(as_json).post(_path(family), {"name": name, "revision": revision, "release": release})
    meant = f"{family}/{row['release']}" if row["release"] else f"family {family}"
    print_json(row) if as_json else say(f"{name} means {meant}.")


@alias.command("ls")
@remote
def alias_ls(family: str, as_json: Json = False) -> None:
    """List what others call a family and its releases."""
    show_list(list(connect(as_json).pages(_path(family))), COLUMNS, as_json)


@alias.command("rm")
@remote
def alias_rm(family: str, name: Called, revision: Revision = None, as_json: Json = False) -> None:
    """Forget such a name; what was published by it stays."""
    client = connect(as_json)
    wanted = name.lower(), revision
    found = next((row for row in client.pages(_path(family)) if (row["name"].lower(), row["revision"]) == wanted), None)
    if found is None:
        fail("base_alias.unknown", f"Family {family!r} is not called {name!r}. See 'portllm family alias ls'.", as_json)
    client.delete(f"{_path(family)}/{segment(found['id'])}")
    print_json(found) if as_json else say(f"{name} means nothing any more.")


def _path(family: str) -> str:
    return f"/families/{segment(family)}/aliases"
