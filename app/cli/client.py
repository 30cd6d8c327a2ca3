"""The HTTP client that all remote verbs share: address and token from the environment, errors as sentences.

httpx takes a fifth of a second to import, which `portllm merge` need not pay: it is imported where it is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from app.cli import credentials
from app.cli.output import EXIT_FAILED, EXIT_USAGE, fail

if TYPE_CHECKING:
    import httpx

TIMEOUT_SECONDS = 300.0
CONNECT_SECONDS = 10.0
API = "/api/v1"
DEFAULT_URL = "http://127.0.0.1:8000"


class RefusedError(Exception):
    """The service answered with a problem, or is not even asked.

    Attributes:
        code: its stable name.
        message: detail and remedy.
        exit_code: what the command ends with.
    """

    def __init__(self, code: str, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code, self.message, self.exit_code = code, message, exit_code


class Client:
    """Requests to one registry.

    Args:
        url: where it is, for example http://127.0.0.1:8000.
        token: a bearer token; None for what asks for none.
    """

    def __init__(self, url: str, token: str | None) -> None:
        import httpx  # noqa: PLC0415

        self.url = url.rstrip("/")
        timeout = httpx.Timeout(TIMEOUT_SECONDS, connect=CONNECT_SECONDS)
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    @property
    def http(self) -> httpx.Client:
        """For streamed bodies; answers must go through `check`."""
        return self._http

    def get(self, path: str, **params: Any) -> Any:
        return self._json("GET", path, params={k: v for k, v in params.items() if v is not None})

    def post(self, path: str, body: Any = None) -> Any:
        return self._json("POST", path, json=body)

    def put(self, path: str, body: Any) -> Any:
        return self._json("PUT", path, json=body)

    def patch(self, path: str, body: Any) -> Any:
        return self._json("PATCH", path, json=body)

    def delete(self, path: str) -> Any:
        return self._json("DELETE", path)

    def pages(self, path: str, **params: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, page by page."""
        cursor = None
        while True:
            page = self.get(path, cursor=cursor, limit=200, **params)
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def check(self, response: httpx.Response) -> httpx.Response:
        """Raises `RefusedError` for an error."""
        if response.is_success or response.status_code == 304:
            return response
        response.read()
        try:
            problem = response.json()
            raise RefusedError(problem["code"], f"{problem['detail']} {problem['remedy']}")
        except (ValueError, KeyError, TypeError):
            raise self._unexpected(response) from None

    def _json(self, method: str, path: str, **options: Any) -> Any:
        response = self.check(self._http.request(method, API + path, **options))
        try:
            return response.json()
        except ValueError:
            raise self._unexpected(response) from None

    def _unexpected(self, response: httpx.Response) -> RefusedError:
        text = f"{self.url} answered {response.status_code} in a way that is not the registry's. Set PORTLLM_URL to a registry."
        return RefusedError("client.unexpected", text)


def connect(as_json: bool = False) -> Client:
    """A client for PORTLLM_URL with PORTLLM_TOKEN, or else with the token that `portllm login` kept."""
    url, token = registry_url(), os.environ.get("PORTLLM_TOKEN", "").strip()
    if not token:
        token = _kept(url, as_json)
    if not (token.isascii() and token.isprintable()):
        fail("client.token", "PORTLLM_TOKEN holds characters that no token has. Set it again.", as_json, EXIT_USAGE)
    return open_client(url, token, as_json)


def registry_url() -> str:
    """Where the registry is."""
    return os.environ.get("PORTLLM_URL", DEFAULT_URL)


def open_client(url: str, token: str | None, as_json: bool) -> Client:
    """A client, or the sentence why that is no address."""
    import httpx  # noqa: PLC0415

    if not url.startswith(("http://", "https://")):
        fail("client.url", f"PORTLLM_URL must begin with http:// or https://, not {url!r}.", as_json, EXIT_USAGE)
    try:
        return Client(url, token)
    except httpx.InvalidURL as error:
        fail("client.url", f"PORTLLM_URL is not an address: {error}.", as_json, EXIT_USAGE)


def _kept(url: str, as_json: bool) -> str:
    """The token of a login that is still good."""
    login = credentials.find(url)
    if login is None:
        text = "Run 'portllm login', or set PORTLLM_TOKEN (the service wrote the first one to DATA/admin-token)."
        fail("client.token", text, as_json, EXIT_USAGE)
    if login.is_over:
        fail("client.login_over", f"The login at {url} has expired. Run 'portllm login' again.", as_json)
    return login.token


def explain(error: Exception, as_json: bool) -> NoReturn:
    """Ends with the sentence for an error of a remote verb; raises any other again."""
    import httpx  # noqa: PLC0415

    if isinstance(error, RefusedError):
        fail(error.code, error.message, as_json, error.exit_code)
    if isinstance(error, httpx.ConnectError):
        url = registry_url()
        fail("client.unreachable", f"Nothing answers at {url}. Start it with 'portllm serve', or set PORTLLM_URL.", as_json)
    if isinstance(error, httpx.TransportError):
        fail("client.connection", f"The connection broke ({type(error).__name__}). Run the same command again.", as_json)
    raise error
