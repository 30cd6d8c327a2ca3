"""The device authorization grant (RFC 8628): somebody lets this terminal in with a browser that may be elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.cli.client import RefusedError
from app.text import visible

if TYPE_CHECKING:
    import httpx

DISCOVERY = "/.well-known/openid-configuration"
GRANT = "urn:ietf:params:oauth:grant-type:device_code"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
TIMEOUT_SECONDS = 10.0
DEFAULT_INTERVAL, SLOWER_SECONDS, LONGEST_INTERVAL = 5.0, 5.0, 60.0
LONGEST_LOGIN = 1800.0

Show = Callable[[str, str, str | None], None]


class Waiting:
    """The clock and the pause of a login."""

    def now(self) -> float:
        return time.monotonic()

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


def identity_token(issuer: str, client_id: str, scopes: list[str], show: Show, waiting: Waiting | None = None) -> str:
    """Asks an issuer to let a person in, and waits until it did.

    Args:
        show: told the address to open, the code to enter there, and an address that holds both, if there is one.

    Returns:
        The identity token (a JWT).

    Raises:
        RefusedError: login.issuer (it cannot be asked, or answers otherwise than it should), login.denied, login.expired.
    """
    import httpx  # noqa: PLC0415

    try:
        return _identity_token(_require_safe(issuer), client_id, scopes, show, waiting or Waiting())
    except httpx.TransportError as error:
        text = f"{_shown(issuer)} cannot be asked ({type(error).__name__}). Run the same command again."
        raise RefusedError("login.issuer", text) from None


def _identity_token(issuer: str, client_id: str, scopes: list[str], show: Show, waiting: Waiting) -> str:
    import httpx  # noqa: PLC0415

    with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, headers={"Accept": "application/json"}) as client:
        about = _ask(client, "GET", issuer.rstrip("/") + DISCOVERY)
        if about.get("issuer") != issuer:
            raise RefusedError("login.issuer", f"The document at {issuer} is another issuer's. Tell the registry's operator.")
        start = _ask(
            client, "POST", _endpoint(about, "device_authorization_endpoint"), {"client_id": client_id, "scope": " ".join(scopes)}
        )
        _require(start, "device_code", "user_code", "verification_uri")
        complete = start.get("verification_uri_complete")
        show(_shown(start["verification_uri"]), _shown(start["user_code"]), _shown(complete) if complete else None)
        form = {"grant_type": GRANT, "device_code": start["device_code"], "client_id": client_id}
        answer = _poll(client, _endpoint(about, "token_endpoint"), form, start, waiting)
    _require(answer, "id_token")
    return str(answer["id_token"])


def _poll(client: httpx.Client, url: str, form: dict[str, str], start: dict[str, Any], waiting: Waiting) -> dict[str, Any]:
    """Asks until the person has decided, no faster than the issuer wants (RFC 8628, 3.5)."""
    import httpx  # noqa: PLC0415

    interval = _seconds(start.get("interval"), DEFAULT_INTERVAL)
    end = waiting.now() + min(_seconds(start.get("expires_in"), LONGEST_LOGIN), LONGEST_LOGIN)
    while waiting.now() < end:
        waiting.pause(interval)
        try:
            answer = _ask(client, "POST", url, form, errors=True)
        except httpx.TransportError:  # as for a connection that times out
            interval = min(2 * max(interval, 1.0), LONGEST_INTERVAL)
            continue
        match answer.get("error"):
            case None:
                return answer
            case "authorization_pending":
                pass
            case "slow_down":
                interval = min(interval + SLOWER_SECONDS, LONGEST_INTERVAL)
            case "access_denied":
                raise RefusedError("login.denied", "The login was refused. Run 'portllm login' again if that was a mistake.")
            case "expired_token":
                break
            case other:
                raise RefusedError(
                    "login.issuer", f"The issuer ended the login ({_shown(str(other))}). Run 'portllm login' again."
                )
    raise RefusedError("login.expired", "Nobody entered the code in time. Run 'portllm login' again.")


def _ask(client: httpx.Client, method: str, url: str, form: dict[str, str] | None = None, errors: bool = False) -> dict[str, Any]:
    """A JSON object of the issuer's; with `errors` also one that says why there is none yet."""
    response = client.request(method, url, data=form)
    try:
        document = response.json()
    except (ValueError, RecursionError):
        document = None
    expected = response.status_code == 200 or (errors and response.status_code in (400, 401, 403, 428, 429))
    if not expected or not isinstance(document, dict) or (response.status_code != 200 and "error" not in document):
        text = f"{_shown(url)} answered {response.status_code} in a way that is no issuer's. Tell the registry's operator."
        raise RefusedError("login.issuer", text)
    return document


def _endpoint(about: dict[str, Any], name: str) -> str:
    url = about.get(name)
    if not isinstance(url, str):
        text = f"The issuer offers no {name.replace('_', ' ')}. Use 'portllm token exchange' with an identity token."
        raise RefusedError("login.issuer", text)
    return _require_safe(url)


def _require_safe(url: str) -> str:
    """Only with TLS, or on this machine: what is sent there lets somebody in."""
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK))
    except ValueError:
        good = False
    if not good:
        raise RefusedError("login.issuer", f"{_shown(url)} is no https address. Tell the registry's operator.")
    return url


def _require(document: dict[str, Any], *names: str) -> None:
    for name in names:
        if not isinstance(document.get(name), str):
            raise RefusedError("login.issuer", f"The issuer's answer lacks {name}. Tell the registry's operator.")


def _seconds(value: Any, default: float) -> float:
    """A number of seconds as an issuer wrote it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e6
    return float(value) if is_number else default


def _shown(text: Any) -> str:
    """Returns the beginning of an untrusted text, with control characters escaped for the terminal."""
    return visible(str(text)[:300])
