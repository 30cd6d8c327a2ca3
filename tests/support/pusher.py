"""A client that pushes over the Hub protocol by hand, by commits, LFS and Xet."""

import base64
import hashlib
import json
import struct
import urllib.parse
from pathlib import Path
from typing import Any

import httpx

from app.core.xet import DESCRIBED, TAG
from tests.support.fixtures import Models
from tests.support.hub_pushes import trained
from tests.support.registry import Service, unique
from tests.support.xet_blocks import raw

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


class Pusher:
    """A client that speaks the protocol by hand, for one repository."""

    def __init__(self, service: Service, repository: str, owner: str = "acme", *scopes: str) -> None:
        self.service, self.repository = service, repository
        self.headers = {"Authorization": f"Bearer {service.caller(owner, *(scopes or ('read', 'publish'))).token}"}

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = self.headers | options.pop("headers", {})
        return self.service.client.request(method, path, headers=headers, **options)

    def create(self) -> "Pusher":
        owner, name = self.repository.split("/")
        assert self("POST", "/api/repos/create", json={"name": name, "organization": owner}).status_code == 200
        return self

    def commit(self, *lines: dict[str, Any], revision: str = "main", **header: Any) -> httpx.Response:
        head = {"key": "header", "value": {"summary": "x", "description": "", **header}}
        body = "\n".join(map(json.dumps, [head, *lines]))
        return self("POST", f"/api/models/{self.repository}/commit/{revision}", content=body)

    def batch(self, *contents: bytes, **more: Any) -> httpx.Response:
        objects = [{"oid": digest(content), "size": len(content)} for content in contents]
        body = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": objects, **more}
        return self("POST", f"/{self.repository}.git/info/lfs/objects/batch", json=body)

    def send(self, content: bytes) -> None:
        """By LFS, where it is not there yet."""
        (found,) = self.batch(content).json()["objects"]
        if "actions" in found:
            assert self.service.client.put(here(found["actions"]["upload"]["href"]), content=content).status_code == 200
            verify = self("POST", here(found["actions"]["verify"]["href"]), json={"oid": digest(content), "size": len(content)})
            assert verify.status_code == 200

    def session(self, name: str = "session-1") -> "Session":
        answer = self("GET", f"/api/models/{self.repository}/xet-write-token/main", headers={"x-xet-session-id": name})
        assert answer.status_code == 200, answer.text
        return Session(self.service, here(answer.json()["casUrl"]), answer.json()["accessToken"])

    def versions(self) -> list[dict[str, Any]]:
        found = self.service.admin.get(f"/patches/{self.repository}/versions")
        return list(found.json()["items"]) if found.status_code == 200 else []


class Session:
    """A Xet client's session."""

    def __init__(self, service: Service, url: str, token: str) -> None:
        self._client, self.url, self.headers = service.client, url, {"Authorization": f"Bearer {token}"}

    def block(self, name: str, content: bytes) -> httpx.Response:
        return self._client.post(f"{self.url}/v1/xorbs/default/{name}", content=content, headers=self.headers)

    def shard(self, *files: tuple[str, list[tuple[str, int, int, int]]]) -> httpx.Response:
        body = TAG + struct.pack("<QQ", 2, 0)
        for sha256, terms in files:
            body += bytes(32) + struct.pack("<IIQ", DESCRIBED, len(terms), 0)
            body += b"".join(raw(name) + struct.pack("<IIII", 0, *term) for name, *term in terms)
            body += raw(sha256) + bytes(16)
        return self._client.post(f"{self.url}/v1/shards", content=body + b"\xff" * 32 + bytes(16), headers=self.headers)


def here(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file(path: str, content: bytes) -> dict[str, Any]:
    return {"key": "file", "value": {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}}


def lfs(path: str, content: bytes, **more: Any) -> dict[str, Any]:
    return {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": digest(content), "size": len(content), **more}}


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """Asserts a refusal in both languages: ours and the Hub's; its message."""
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == code, answer.text
    assert answer.headers["X-Error-Message"]
    return str(answer.json()["error"])


def unpublished_patch(models: Models, directory: Path) -> dict[str, bytes]:
    """The files of a patch that nobody has published yet, by path; `directory` is for the copies that this makes."""
    source = directory / "models"
    source.mkdir()
    (source / "patch").symlink_to(models.patch)
    trained_patch = trained(source, directory / unique("patch"), card=unique("card"))
    return {path: (trained_patch / path).read_bytes() for path in (CONFIG, WEIGHTS, CARD)}
