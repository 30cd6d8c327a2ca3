"""Reads merged files on workers, for clients that must not be sent there."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 2.0
# The first byte of a model that was not read before needs its plan, and torch.
READ_SECONDS = 60.0
CHUNK = 2**20
CONNECTIONS = 64

log = logging.getLogger("portllm.workers")


class WorkerFiles:
    """One pool of connections to all workers, opened with the first read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None

    def read(self, url: str, headers: Mapping[str, str], length: int) -> Generator[memoryview, None, None] | None:
        """Starts a read on a worker.

        Args:
            url: a signed address.
            headers: Range and If-Range of the request.
            length: how many bytes the answer must have.

        Returns:
            Its bytes, still to be read; None when the worker cannot be reached, is busy or answers anything else.
        """
        import httpx  # noqa: PLC0415  a fifth of a second that a service without workers need not pay

        try:
            client = self._opened()
            response = client.send(client.build_request("GET", url, headers=dict(headers)), stream=True)
        except httpx.TransportError as error:
            log.warning("a worker could not be reached (%s); its read is served here", type(error).__name__)
            return None
        if response.status_code in (200, 206) and response.headers.get("Content-Length") == str(length):
            return _body(response)
        log.warning("a worker answered %s; its read is served here", response.status_code)
        response.close()
        return None

    def close(self) -> None:
        """Closes its connections."""
        with self._lock:
            if self._client:
                self._client.close()

    def _opened(self) -> httpx.Client:
        import httpx  # noqa: PLC0415

        with self._lock:
            if self._client is None:
                limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
                timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS)
                # `trust_env` off: workers are ours, a proxy for the outside has no business between us.
                self._client = httpx.Client(limits=limits, timeout=timeout, trust_env=False)
            return self._client


def _body(response: httpx.Response) -> Generator[memoryview, None, None]:
    """Raises ConnectionError when the worker breaks off: our client's connection breaks too, no part passes for the whole."""
    import httpx  # noqa: PLC0415

    try:
        for chunk in response.iter_raw(CHUNK):
            yield memoryview(chunk)
    except httpx.TransportError as error:
        raise ConnectionError(f"a worker broke off ({type(error).__name__})") from error
    finally:
        response.close()
