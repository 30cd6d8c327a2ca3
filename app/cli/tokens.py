"""`portllm token`: who may do what, and for how long."""

from typing import Annotated

import typer

from app.cli.client import connect
from app.cli.names import segment
from app.cli.offline import Json
from app.cli.options import Role, Scopes
from app.cli.output import fail, print_json, say
from app.cli.releases_and_patches import show_list
from app.cli.remote_command import remote

token = typer.Typer(no_args_is_help=True, help="Tokens.")

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@token.command("create")
@remote
def token_create(
    owner: str,
    role: Role = None,
    scope: Scopes = None,
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    expires: Annotated[str | None, typer.Option(help="How long it is valid, as 30m, 12h or 90d; default: until revoked.")] = None,
    as_json: Json = False,
) -> None:
    """Make a token; it is shown this once."""
    if bool(role) == bool(scope):
        fail("client.role", "Give either --role or --scope.", as_json, 2)
    wanted = {"role": role} if role else {"scopes": scope}
    row = connect(as_json).post(
        "/tokens", {"owner": owner, "name": name, "expires_in": seconds_of(expires, as_json) if expires else None, **wanted}
    )
    print_json(row) if as_json else say(row["token"])


@token.command("rotate")
@remote
def token_rotate(
    token_id: Annotated[str, typer.Argument(help="Id of a token, or self.")] = "self",  # noqa: S107  a word of the API, no secret
    grace: Annotated[str, typer.Option(help="How long the old one stays valid, as 0s, 1h or 7d.")] = "0s",
    as_json: Json = False,
) -> None:
    """Make a token that takes another's place; it is shown this once."""
    row = connect(as_json).post(f"/tokens/{segment(token_id)}/rotate", {"grace": seconds_of(grace, as_json)})
    print_json(row) if as_json else say(row["token"])


def seconds_of(span: str, as_json: bool) -> int:
    """Seconds of a span such as 90d."""
    number, unit = span[:-1], span[-1:]
    if not (number.isascii() and number.isdigit() and len(number) < 10 and unit in UNITS):
        fail("client.span", f"{span!r} is not a span of time; write it as 30s, 15m, 12h or 90d.", as_json, 2)
    return int(number) * UNITS[unit]


@token.command("ls")
@remote
def token_ls(as_json: Json = False) -> None:
    """List tokens."""
    show_list(
        list(connect(as_json).pages("/tokens")),
        ("id", "owner", "name", "role", "scopes", "expires_at", "revoked_at", "issuer", "subject", "made_by"),
        as_json,
    )


@token.command("revoke")
@remote
def token_revoke(
    token_id: str,
    with_made: Annotated[bool, typer.Option(help="Also what was made or rotated with it, in turn, as after a theft.")] = False,
    as_json: Json = False,
) -> None:
    """Revoke a token, at once."""
    row = connect(as_json).delete(f"/tokens/{segment(token_id)}{'?with_made=true' if with_made else ''}")
    print_json(row) if as_json else say(f"{row['id']} is revoked.")
