"""A small hub of the tests' own: listings, revisions, and files that it hands out by range, large ones from a "CDN" elsewhere.

It speaks what huggingface_hub 2.4 asks for reading. Faults are asked for before each answer that carries a file.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

SIGNATURE = "sIgNaTuRe-of-the-cdn"
PAGE = 3
LARGE = (".safetensors", ".bin", ".model")


@dataclass
class Fault:
    """What goes wrong with an answer: another status, fewer bytes, other bytes, other headers, or bytes that are held back.

    Attributes:
        allowed: how many bytes of the file are out by now, counted from its begin; more is sent when the number grows.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    flip: bool = False
    allowed: Callable[[], int] | None = None


# Told of the server ("hub" or "cdn"), the path of a file, and where the answer begins; None: nothing goes wrong.
Faults = Callable[[str, str, int], Fault | None]


@dataclass
class Repository:
    """Files by path at one commit; `gone` are listed and not there."""

    files: dict[str, bytes]
    revisions: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    @property
    def commit(self) -> str:
        text = json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in sorted(self.files.items())})
        return git_sha1(text.encode())

    def of(self, revision: str) -> str | None:
        if revision in ("main", self.commit):
            return self.commit
        return self.commit if revision in self.revisions else None


@dataclass
class Asked:
    """A request: which of the two servers was asked, for what, with which headers (lower case)."""

    server: str
    path: str
    headers: dict[str, str]


@dataclass
class FakeHub:
    """Repositories by name, what is required, what goes wrong, and what was asked.

    Attributes:
        redirect: where all large files are said to be.
        ranges: whether it knows them.
        entries, link: what every listing says, and of its next page, in place of the truth.
        lies: digests by path that listings say of large files.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str | None = None
    faults: Faults = lambda *_: None
    redirect: str | None = None
    ranges: bool = True
    entries: Any = None
    link: str | None = None
    lies: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    cdn: str = ""

    def add(self, name: str, directory: Path | None = None, **files: bytes) -> Repository:
        """A repository with the files of a directory, and others."""
        found = {}
        if directory:
            found = {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
        self.repositories[name] = Repository({**found, **files})
        return self.repositories[name]

    def fetched(self, path: str, server: str = "") -> list[Asked]:
        """Requests for a file, at one of the servers or both."""
        return [a for a in self.asked if f"/{quote(path)}" in a.path.partition("?")[0] and a.server.startswith(server)]


def git_sha1(data: bytes) -> str:
    """Git's name of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """Two servers on this machine until the block ends."""
    hub = FakeHub()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub, name)) for name in ("hub", "cdn")]
    hub.url, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _handler(hub: FakeHub, server: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

        def do_GET(self) -> None:
            hub.asked.append(Asked(server, self.path, {k.lower(): v for k, v in self.headers.items()}))
            with suppress(ConnectionError):
                _cdn(hub, self) if server == "cdn" else _hub(hub, self)

    return Handler


def _hub(hub: FakeHub, request: BaseHTTPRequestHandler) -> None:
    parts = urlsplit(request.path)
    path = unquote(parts.path)
    if hub.token and request.headers.get("Authorization") != f"Bearer {hub.token}":
        _refuse(request, 401, "RepoNotFound")
    elif path == "/api/models":
        _models(hub, request, parse_qs(parts.query))
    elif found := re.fullmatch(r"/api/models/(.+?)/revision/(.+)", path):
        repository = hub.repositories.get(found[1])
        commit = repository and repository.of(found[2])
        if not repository:
            _refuse(request, 401, "RepoNotFound")
        elif not commit:
            _refuse(request, 404, "RevisionNotFound")
        else:
            _json(request, {"id": found[1], "sha": commit})
    elif found := re.fullmatch(r"/api/models/(.+?)/tree/([0-9a-f]{40})", path):
        _tree(hub, request, hub.repositories[found[1]], parse_qs(parts.query))
    elif found := re.fullmatch(r"/(.+?)/resolve/([0-9a-f]{40})/(.+)", path):
        _resolve(hub, request, found[1], found[3])
    else:
        _refuse(request, 404, "EntryNotFound")


def _models(hub: FakeHub, request: BaseHTTPRequestHandler, query: dict[str, list[str]]) -> None:
    author = query["author"][0]
    names = [name for name in sorted(hub.repositories) if name.startswith(f"{author}/")]
    _json(request, [{"id": n, "siblings": [{"rfilename": p} for p in hub.repositories[n].files]} for n in names])


def _tree(hub: FakeHub, request: BaseHTTPRequestHandler, repository: Repository, query: dict[str, list[str]]) -> None:
    entries: list[dict[str, Any]] = [
        {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
        for folder in sorted({path.rpartition("/")[0] for path in repository.files} - {""})
    ]
    for path, data in sorted(repository.files.items()):
        git = git_sha1(data)
        lfs = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}} if is_large(path) else {}
        entries.append({"type": "file", "path": path, "size": len(data), "oid": git, **lfs})
        if path in hub.lies:
            entries[-1]["lfs"]["oid"] = hub.lies[path]
    if hub.entries is not None or hub.link:
        _json(request, hub.entries or [], {"Link": hub.link} if hub.link else {})
        return
    start = int(query.get("cursor", ["0"])[0])
    link = {}
    if start + PAGE < len(entries):
        path = urlsplit(request.path).path
        link = {"Link": f'<{hub.url}{path}?recursive=true&cursor={start + PAGE}>; rel="next"'}
    _json(request, entries[start : start + PAGE], link)


def _resolve(hub: FakeHub, request: BaseHTTPRequestHandler, name: str, path: str) -> None:
    repository = hub.repositories[name]
    if path in repository.gone or path not in repository.files:
        _refuse(request, 404, "EntryNotFound")
        return
    data = repository.files[path]
    headers = {"X-Repo-Commit": repository.commit}
    fault = hub.faults("hub", path, _start(request))
    if fault and fault.status:
        _refuse(request, fault.status, "", fault.headers)
    elif is_large(path):
        where = hub.redirect or f"{hub.cdn}/{quote(name)}/{quote(path)}?X-Signature={SIGNATURE}"
        linked = {
            "X-Linked-Etag": f'"{hub.lies.get(path) or hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)),
            "Location": where,
        }
        _send(request, 302, b"", headers | linked | (fault.headers if fault else {}))
    else:
        etag = git_sha1(data)
        _bytes(hub, request, data, headers | {"ETag": f'"{etag}"'}, fault)


def _cdn(hub: FakeHub, request: BaseHTTPRequestHandler) -> None:
    name, _, path = unquote(urlsplit(request.path).path)[1:].partition("/")
    folder, _, path = path.partition("/")
    data = hub.repositories[f"{name}/{folder}"].files[path]
    fault = hub.faults("cdn", path, _start(request))
    if fault and fault.status:
        _refuse(request, fault.status, "", fault.headers)
    else:
        _bytes(hub, request, data, {"ETag": '"of-the-cdn"'}, fault)


def _start(request: BaseHTTPRequestHandler) -> int:
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
    return int(found[1]) if found else 0


def _bytes(hub: FakeHub, request: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], fault: Fault | None) -> None:
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", "")) if hub.ranges else None
    body, status = data, 200
    if found:
        start, end = int(found[1]), min(int(found[2]), len(data) - 1)
        if start >= len(data):
            _send(request, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        body, status = data[start : end + 1], 206
        headers = headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
    begin = _start(request) if found else 0
    if fault is None:
        _send(request, status, body, headers)
        return
    if fault.flip and body:
        body = bytes([body[0] ^ 1]) + body[1:]
    sent = body if fault.cut_after is None else body[: fault.cut_after]
    request.send_response(status)
    for name, value in {**headers, **fault.headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    for start in range(0, len(sent), 2**14):
        while fault.allowed and begin + start >= fault.allowed():
            time.sleep(0.01)
        request.wfile.write(sent[start : start + 2**14])
    if len(sent) < len(body):
        request.close_connection = True


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str, headers: dict[str, str] | None = None) -> None:
    known = {"X-Error-Code": code} if code else {}
    _send(request, status, b'{"error":"no"}', known | (headers or {}))


def _json(request: BaseHTTPRequestHandler, value: Any, headers: dict[str, str] | None = None) -> None:
    _send(request, 200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def _send(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]) -> None:
    request.send_response(status)
    for name, value in {**headers, "Content-Length": str(len(body))}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)
