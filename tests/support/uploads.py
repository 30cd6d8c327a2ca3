"""Sending a patch directory, as a client does it; and patch directories that differ by little."""

import hashlib
import shutil
from pathlib import Path
from typing import Any, Protocol

import httpx

OCTETS = "application/offset+octet-stream"


class Sender(Protocol):
    """Something that makes requests."""

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response: ...


def announced(directory: Path) -> list[dict[str, Any]]:
    """What a client says about the files of a directory before it sends them."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return [announce(p.relative_to(directory).as_posix(), p.read_bytes()) for p in files]


def announce(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def append(call: Sender, url: str, offset: int, content: bytes) -> httpx.Response:
    """Sends bytes that begin at an offset."""
    return call("PATCH", url, content=content, headers={"Upload-Offset": str(offset), "Content-Type": OCTETS})


def send(call: Sender, draft: dict[str, Any], directory: Path) -> None:
    """Sends all files of a draft whole."""
    for upload in draft["uploads"]:
        content = (directory / upload["path"]).read_bytes()
        if content:
            sent = append(call, upload["url"], 0, content)
            assert sent.status_code == 204, sent.text
            assert sent.headers["Upload-Offset"] == str(len(content))


def with_card(patch: Path, out: Path, text: str) -> Path:
    """The same patch with another README.md: other bytes, the same weights."""
    shutil.copytree(patch, out)
    (out / "README.md").write_text(text)
    return out
