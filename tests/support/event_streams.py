"""Reads events: the newest cursor, and a live stream."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.support.registry import Caller


def latest_cursor(caller: Caller) -> int:
    """The cursor behind everything that happened so far."""
    cursor = 0
    while True:
        page = caller.get("/events", after=cursor, limit=500).json()
        if not page["items"]:
            return cursor
        cursor = page["cursor"]


@contextmanager
def event_stream(url: str, token: str | None, after: int | None, **headers: str) -> Iterator[Iterator[dict[str, Any]]]:
    """A live stream of events, parsed as the standard says: id, event, data, an empty line."""
    asked = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream", **headers}
    query = {} if after is None else {"after": after}
    with httpx.stream("GET", f"{url}/api/v1/events", params=query, headers=asked, timeout=10) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"

        def messages() -> Iterator[dict[str, Any]]:
            fields: dict[str, Any] = {}
            for line in response.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "data" in fields:
                    yield fields | {"data": json.loads(fields["data"])}
                    fields = {}

        yield messages()
