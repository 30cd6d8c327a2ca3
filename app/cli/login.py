"""`portllm login`, `portllm logout`, `portllm token exchange`: tokens for those whom an issuer vouches for."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli import credentials, device_login
from app.cli.client import RefusedError, open_client, registry_url
from app.cli.credentials import Login
from app.cli.offline import Json
from app.cli.output import EXIT_USAGE, fail, print_json, say
from app.cli.remote_command import remote
from app.cli.tokens import seconds_of

VARIABLE = "PORTLLM_ID_TOKEN"
MAX_BYTES = 64 * 1024  # the registry takes no longer ones


@remote
def exchange(
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the identity token; default: {VARIABLE}, or else standard input.")
    ] = None,
    lifetime: Annotated[str | None, typer.Option(help="How long it is valid, as 30m or 2h; default: 1h.")] = None,
    as_json: Json = False,
) -> None:
    """Exchange an identity token (OpenID Connect) for a token of the registry; it is shown this once."""
    row = _exchange(_identity_token(token_file, as_json), _span(lifetime, as_json), as_json)
    print_json(row) if as_json else say(row["token"])


@remote
def login(
    issuer: Annotated[str | None, typer.Option(help="Which issuer, where the registry names several.")] = None,
    lifetime: Annotated[str | None, typer.Option(help="How long it is valid, as 30m or 12h; default: 1h.")] = None,
    as_json: Json = False,
) -> None:
    """Log in with a browser; other verbs then use the token that is kept, unless PORTLLM_TOKEN is set."""
    seconds, url = _span(lifetime, as_json), registry_url()
    chosen = _chosen(open_client(url, None, as_json).get("/oidc")["issuers"], issuer)
    row = _exchange(device_login.identity_token(chosen["issuer"], chosen["client_id"], chosen["scopes"], _show), seconds, as_json)
    credentials.keep(url, Login(row.pop("token"), row["expires_at"]))
    if as_json:
        print_json(row)
        return
    say(f"Logged in at {url} as {row['owner']} ({row['role']}) until {row['expires_at']}.")
    if os.environ.get("PORTLLM_TOKEN"):
        say("PORTLLM_TOKEN is set, and is used in place of this login.", err=True)


@remote
def logout(as_json: Json = False) -> None:
    """End the login at the registry: its token is revoked, and forgotten here."""
    url = registry_url()
    known = credentials.find(url)
    if known is None:
        fail("client.login", f"There is no login at {url}.", as_json)
    try:
        open_client(url, known.token, as_json).delete("/tokens/self")
    except RefusedError as error:
        if error.code not in ("token.missing", "token.expired"):  # it ended before
            raise
    credentials.forget(url)
    print_json({"url": url}) if as_json else say(f"Logged out of {url}.")


def _chosen(issuers: list[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    """The issuer to log in at."""
    offered = [one for one in issuers if one["client_id"] and wanted in (None, one["issuer"])]
    if len(offered) == 1:
        return offered[0]
    names = ", ".join(one["issuer"] for one in issuers if one["client_id"])
    if offered:
        raise RefusedError("login.choose", f"Choose one of the registry's issuers with --issuer: {names}.", EXIT_USAGE)
    text = f"It offers {names}." if names else "It offers none; ask an admin for a token."
    raise RefusedError("login.none", f"The registry offers no such login. {text}")


def _exchange(identity_token: str, lifetime: int | None, as_json: bool) -> dict[str, Any]:
    body = {"token": identity_token, **({"lifetime": lifetime} if lifetime else {})}
    return dict(open_client(registry_url(), None, as_json).post("/tokens/exchange", body))


def _identity_token(file: Path | None, as_json: bool) -> str:
    """From a file, the environment or standard input, never from the command line, which others can see."""
    if file is not None:
        with file.open("rb") as opened:
            read = opened.read(MAX_BYTES)
    else:
        read = os.environ.get(VARIABLE, "").encode() or sys.stdin.buffer.read(MAX_BYTES)
    text = read.strip().decode("ascii", "replace")
    if not text:
        fail("client.token", f"There is no identity token. Set {VARIABLE}, or give --token-file.", as_json, EXIT_USAGE)
    return text


def _span(span: str | None, as_json: bool) -> int | None:
    return None if span is None else seconds_of(span, as_json)


def _show(address: str, code: str, complete: str | None) -> None:
    """On standard error: standard output is for the result."""
    say(f"Open {address} and enter the code {code}", err=True)
    if complete:
        say(f"or open {complete}", err=True)
