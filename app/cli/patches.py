"""`portllm patch create | set | publish`: patches that others push to, by the Hub protocol."""

from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.names import patch_path
from app.cli.offline import Json
from app.cli.output import EXIT_USAGE, fail, print_json, say
from app.cli.releases_and_patches import PatchName, split_name
from app.cli.remote_command import remote

Family = Annotated[str, typer.Option(help="Family of the base model.")]
Default = Annotated[str | None, typer.Option(help="The release of pushes that do not tell what they were trained on.")]
Description = Annotated[str | None, typer.Option(help="What it is.")]


@remote
def patch_create(
    name: PatchName, family: Family, trained_on: Default = None, description: Description = None, as_json: Json = False
) -> None:
    """Create a patch, to be pushed to by huggingface_hub or by 'portllm patch push'."""
    client = connect(as_json)
    owner, short = split_name(name, as_json)
    body = {"owner": owner, "name": short, "family": family, "trained_on": trained_on, "description": description or ""}
    row = client.post("/patches", body)
    said = f", trained on {row['trained_on']} where a push does not tell" if row["trained_on"] else ""
    print_json(row) if as_json else say(f"{name} of family {row['family']} is there{said}.")


@remote
def patch_set(name: PatchName, trained_on: Default = None, description: Description = None, as_json: Json = False) -> None:
    """Change what is said of a patch."""
    changes = {key: value for key, value in (("trained_on", trained_on), ("description", description)) if value is not None}
    if not changes:
        fail("client.nothing", "Say what to change: --trained-on or --description.", as_json, EXIT_USAGE)
    client = connect(as_json)
    owner, short = split_name(name, as_json)
    row = client.patch(patch_path(owner, short), changes)
    print_json(row) if as_json else say(f"{name}: trained on {row['trained_on'] or '(not said)'}; {row['description']}")


@remote
def patch_publish(
    name: PatchName,
    trained_on: Annotated[str, typer.Option(help='Release it was trained on, or "unknown".')],
    family: Annotated[str | None, typer.Option(help="Family of the base model, where the patch has none yet.")] = None,
    as_json: Json = False,
) -> None:
    """Publish what was pushed and does not tell what it was trained on."""
    client = connect(as_json)
    owner, short = split_name(name, as_json)
    row = client.post(f"{patch_path(owner, short)}/publish", {"trained_on": trained_on, "family": family})
    if as_json:
        print_json(row)
        return
    say(f"{name} version {row['number']}, trained on {row['trained_on']}, {row['total_bytes']:,} bytes.")
