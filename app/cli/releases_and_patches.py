"""`portllm release | patch` and the lists."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.client import connect
from app.cli.ingest import add_release, wait_release
from app.cli.names import patch_path, release_path, segment
from app.cli.offline import Json
from app.cli.output import EXIT_USAGE, fail, fail_row, print_json, print_table, say
from app.cli.remote_command import remote
from app.cli.wait import Timeout

release = typer.Typer(no_args_is_help=True, help="Releases of base models.")
patch = typer.Typer(no_args_is_help=True, help="Patches.")

COLUMNS = {
    "families": ("name", "description", "created_at"),
    "releases": ("family", "name", "parent", "state", "total_bytes", "source"),
    "patches": ("owner", "name", "family", "description"),
    "ports": ("id", "patch", "version", "release", "state", "created_at"),
}
FROM = "Model directory on the service's machine, s3://bucket/prefix, or hf:org/name@revision (UPSTREAM:... of another hub)."
PatchName = Annotated[str, typer.Argument(metavar="OWNER/NAME")]


def split_name(name: str, as_json: bool = False) -> tuple[str, str]:
    """'acme/tone' -> ('acme', 'tone')."""
    owner, slash, rest = name.partition("/")
    if not slash or not owner or not rest or "/" in rest:
        fail("client.name", f"A patch is named OWNER/NAME, not {name!r}.", as_json, EXIT_USAGE)
    patch_path(owner, rest)  # refuses what cannot be looked up, also where the name goes elsewhere than into a path
    return owner, rest


@release.command("add")
@remote
def release_add(
    family: str,
    name: Annotated[str, typer.Argument(metavar="RELEASE")],
    directory: Annotated[str, typer.Option("--from", help=FROM)],
    parent: Annotated[str | None, typer.Option(help="The release that this one continues.")] = None,
    copy: Annotated[bool, typer.Option(help="Copy the bytes instead of reading them in place.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until it is ready.")] = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Register a release of a family, which is created if it is new."""
    client = connect(as_json)
    row = add_release(client, family, name, directory, parent, copy)
    if wait or timeout is not None:
        row = wait_release(client, row, timeout)
    failed = row["state"] == "rejected"
    if not as_json:
        say(f"{family}/{name} is {row['state']}.")
    elif not failed:
        print_json(row)
    if failed:
        fail_row(row, as_json)


@release.command("show")
@remote
def release_show(family: str, name: Annotated[str, typer.Argument(metavar="RELEASE")], as_json: Json = False) -> None:
    """Show a release: what it is, where it lies, or why it was rejected."""
    row = connect(as_json).get(release_path(family, name))
    if as_json:
        print_json(row)
        return
    flat = {**row, **(row["summary"] or {}), "problem": (row["problem"] or {}).get("detail"), "origin": _origin(row["origin"])}
    print_table(("", f"{family}/{name}"), [(key, _plain(value)) for key, value in flat.items() if value and key != "summary"])


def _origin(origin: dict[str, Any] | None) -> str | None:
    return " ".join(f"{key}={value}" for key, value in origin.items()) if origin else None


def _plain(value: Any) -> Any:
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}" if type(value) is int else value


@release.command("yank")
@remote
def release_yank(family: str, name: str, reason: Annotated[str, typer.Option(help="Why.")], as_json: Json = False) -> None:
    """Hide a release from selection."""
    row = connect(as_json).post(f"{release_path(family, name)}/yank", {"reason": reason})
    print_json(row) if as_json else say(f"{family}/{name} is {row['state']}.")


@patch.command("push")
@remote
def patch_push(
    name: PatchName,
    directory: Annotated[Path, typer.Argument(metavar="PEFT_DIR", exists=True, file_okay=False)],
    family: Annotated[str, typer.Option(help="Family of the base model.")],
    trained_on: Annotated[str, typer.Option(help='Release it was trained on, or "unknown".')],
    as_json: Json = False,
) -> None:
    """Publish the patch that PEFT saved in a directory."""
    from app.cli.upload import push_patch  # noqa: PLC0415  httpx; see app.cli.client

    client = connect(as_json)
    owner, short = split_name(name, as_json)
    row = push_patch(client, owner, short, directory, family, trained_on)
    if as_json:
        print_json(row)
        return
    if row["dropped"]:
        say(f"Left out, not part of a patch: {', '.join(row['dropped'])}.")
    say(f"{name} version {row['number']}, trained on {row['trained_on']}, {row['total_bytes']:,} bytes.")


@patch.command("pull")
@remote
def patch_pull(
    name: PatchName,
    out_dir: Path,
    version: Annotated[str, typer.Option(help="Version number or alias.")] = "main",
    as_json: Json = False,
) -> None:
    """Download a patch as it was published, for PEFT to load."""
    from app.cli.fetch import fetch_patch  # noqa: PLC0415  httpx; see app.cli.client

    row = fetch_patch(connect(as_json), full_path(name, as_json), version, out_dir)
    print_json(row) if as_json else say(f"{out_dir}: {name} version {row['number']}, {row['total_bytes']:,} bytes.")


@patch.command("yank")
@remote
def patch_yank(name: PatchName, version: int, reason: Annotated[str, typer.Option(help="Why.")], as_json: Json = False) -> None:
    """Hide a version from selection."""
    row = connect(as_json).post(f"{full_path(name, as_json)}/versions/{version}/yank", {"reason": reason})
    print_json(row) if as_json else say(f"{name} version {version} is {row['state']}.")


@patch.command("alias")
@remote
def patch_alias(name: PatchName, alias: str, version: str, as_json: Json = False) -> None:
    """Point an alias at a version."""
    row = connect(as_json).put(f"{full_path(name, as_json)}/aliases/{segment(alias)}", {"version": version})
    print_json(row) if as_json else say(f"{name}@{alias} is version {row['version']}.")


@remote
def ls(what: Annotated[str, typer.Argument(metavar="families|releases|patches|ports")], as_json: Json = False) -> None:
    """List families, releases, patches or ports, newest first."""
    client = connect(as_json)
    if what not in COLUMNS:
        fail("client.list", f"There is no list {what!r}; use families, releases, patches or ports.", as_json, EXIT_USAGE)
    show_list(list(client.pages(f"/{what}")), COLUMNS[what], as_json)


def full_path(name: str, as_json: bool) -> str:
    """Where a patch is, below /api/v1."""
    owner, short = split_name(name, as_json)
    return patch_path(owner, short)


def show_list(items: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print_json(items)
    else:
        print_table(columns, [[item.get(c) for c in columns] for item in items])
