"""A request to an ASGI application that is driven by hand."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI


@dataclass
class AsgiExchange:
    """A request that is driven by hand, so that a test sees what is read of its body."""

    app: FastAPI
    method: str
    path: str
    token: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    read: int = 0
    status: int = 0
    answer: bytes = b""
    sent: dict[str, str] = field(default_factory=dict)

    async def run(self, pieces: Callable[[], Awaitable[bytes | None]]) -> "AsgiExchange":
        """`pieces` gives the body piece by piece; None: it is over."""
        path, _, query = self.path.partition("?")
        headers = {"content-type": "application/json", "host": "registry"} | self.headers
        headers |= {"authorization": f"Bearer {self.token}"} if self.token else {}
        scope = {
            "type": "http", "method": self.method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "client": ("127.0.0.1", 1),
            "server": ("registry", 80), "scheme": "http", "http_version": "1.1", "root_path": "",
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            self.read += 1
            piece = await pieces()
            return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.sent = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                self.answer += message.get("body", b"")

        await self.app(scope, receive, send)
        return self

    @property
    def code(self) -> str:
        return str(json.loads(self.answer)["code"])
