"""Another hub as a client sees it: what a revision means, what lies there, and bytes by range. Through `guarded` alone.

The protocol is the Hugging Face Hub's (huggingface_hub 2.4, `hf_api.py` and `file_download.py`). Nothing that a hub says is
believed but what a file should be, and that is held against its bytes by whoever takes them.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn
from urllib.parse import quote, urljoin, urlsplit

import httpx

from app.clients import guarded
from app.clients.addresses import Reach
from app.clients.guarded import Answer
from app.domain.errors import DomainError
from app.domain.upstreams import Hub, HubFile, is_commit

LISTING_BYTES = 16 * 2**20
MAX_FILES, MAX_REPOSITORIES, MAX_PAGES = 10_000, 1000, 200
MAX_PATH = 1024
MERGED = ".merged"
# Documents are waited for by people or by a job; a window of a file by a job alone.
ASKING = Reach(redirects=3, max_bytes=LISTING_BYTES, connect_seconds=5.0, read_seconds=20.0, total_seconds=60.0)
FETCHING = Reach(redirects=5, connect_seconds=10.0, read_seconds=30.0, total_seconds=600.0)
LONGEST_PAUSE = 120.0
LISTING_SECONDS = 120.0  # all pages of a list together
CAN_PASS = (408, 425, 429, 500, 502, 503, 504)

_NEXT = re.compile(r'<([^<>]{1,4096})>\s*;\s*rel="?next"?')
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class HubClient:
    """Asks one hub; safe to use from several threads.

    Args:
        hub: where it is and what it is asked with. Its token goes to its own address alone, also where it redirects.
    """

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        private, plain = frozenset(hub.private_hosts), frozenset(hub.http_hosts)
        self._asking, self._fetching = (replace(r, private_hosts=private, http_hosts=plain) for r in (ASKING, FETCHING))
        self._headers = {"Authorization": f"Bearer {hub.token}"} if hub.token else {}

    def commit(self, repository: str, revision: str) -> str:
        """The immutable revision (40 hex) that a revision means now.

        Raises:
            DomainError: upstream.missing, upstream.denied, upstream.unavailable, upstream.answer; outgoing.*.
        """
        found = self._document(
            f"{self._api(repository)}/revision/{quote(revision, safe='')}", repository, f"revision {revision!r}"
        )
        commit = found.get("sha") if isinstance(found, dict) else None
        if not is_commit(commit):
            raise self._strange(repository, "it names no commit of 40 hexadecimal digits")
        return str(commit)

    def files(self, repository: str, commit: str) -> list[HubFile]:
        """All files of a commit, hidden ones too.

        Raises:
            DomainError: as `commit`.
        """
        url = f"{self._api(repository)}/tree/{commit}?recursive=true&expand=false"
        entries = self._pages(url, repository, f"commit {commit}", MAX_FILES)
        found = {file.path: file for entry in entries if (file := self._file(repository, entry)) is not None}
        return [found[path] for path in sorted(found)]

    def adapters(self, organisation: str) -> list[str]:
        """Repositories of an organisation that hold an adapter, as far as the hub's list tells; the others are left out.

        Raises:
            DomainError: as `commit`.
        """
        url = f"{self.hub.endpoint}/api/models?author={quote(organisation, safe='')}&full=true&limit=500"
        found = []
        for entry in self._pages(url, organisation, "models", MAX_REPOSITORIES):
            name, siblings = entry.get("id"), entry.get("siblings")
            if not isinstance(name, str) or not name.lower().startswith(f"{organisation.lower()}/"):
                raise self._strange(organisation, "it lists what is not there")
            paths = {s.get("rfilename") for s in siblings if isinstance(s, dict)} if isinstance(siblings, list) else None
            # Registries like this one list merged models beside patches, and no files.
            if "adapter_config.json" in paths if paths else not name.endswith(MERGED):
                found.append(name)
        return found

    @contextmanager
    def read(self, repository: str, commit: str, file: HubFile, offset: int, length: int) -> Iterator[Iterator[bytes]]:
        """Bytes of a file from `offset` on, `length` at most, in pieces as they come; fewer where the connection ends early.

        Raises:
            DomainError: upstream.changed where the hub says that it is another file now; as `commit`.
        """
        url = f"{self.hub.endpoint}/{repository}/resolve/{commit}/{quote(file.path)}"
        whole = offset == 0 and length >= file.size
        headers = self._headers if whole else {**self._headers, "Range": f"bytes={offset}-{offset + length - 1}"}
        # A hub that does not know ranges sends everything: what is not wanted is passed over.
        with guarded.stream(url, replace(self._fetching, max_bytes=file.size + 2**20), headers) as answer:
            if answer.status not in (200, 206):
                self._refuse(answer.status, answer.headers, repository, f"file {file.path!r}")
            self._check_same(file, commit, answer.first)
            skip = offset if answer.status == 200 else self._begins(file, offset, answer.headers)
            yield _cut(answer.pieces, skip, length)

    def _check_same(self, file: HubFile, commit: str, headers: httpx.Headers) -> None:
        """What the hub itself says of the file, before it redirects anywhere."""
        said = headers.get("X-Repo-Commit", commit)
        etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
        expected = file.sha256 if _SHA256.fullmatch(etag) else file.git_sha1 if _SHA1.fullmatch(etag) else None
        if said != commit or (expected and etag != expected):
            raise self.changed(file.path, "it has another revision or digest now")

    def _begins(self, file: HubFile, offset: int, headers: httpx.Headers) -> int:
        """How many bytes to pass over: none, since only the range is sent."""
        said = _RANGE.fullmatch(headers.get("Content-Range", ""))
        if said is None or int(said[1]) != offset:
            raise self._busy(f"file {file.path!r}", "it sends another range than was asked for")
        if said[3] not in ("*", str(file.size)):
            raise self.changed(file.path, f"it has {said[3]} bytes, not {file.size}")
        return 0

    def changed(self, path: str, reason: str) -> DomainError:
        """The refusal of bytes that are not what was listed."""
        return DomainError("upstream.changed", path=path[:300], upstream=self.hub.name, reason=reason)

    def _file(self, repository: str, entry: Mapping[str, Any]) -> HubFile | None:
        """A line of a listing; None for a directory."""
        if entry.get("type") == "directory":
            return None
        path, size, lfs = entry.get("path"), entry.get("size"), entry.get("lfs")
        sha256 = lfs.get("oid") if isinstance(lfs, dict) else None
        git_sha1 = None if sha256 else entry.get("oid")
        if isinstance(lfs, dict):
            size = lfs.get("size", size)
        if not _is_path(path) or not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**50:
            raise self._strange(repository, "it lists a file without a plain path or a size")
        if not any(isinstance(d, str) and p.fullmatch(d) for d, p in ((sha256, _SHA256), (git_sha1, _SHA1))):
            raise self._strange(repository, f"it lists {str(path)[:100]!r} without a digest")
        return HubFile(str(path), size, sha256, git_sha1)

    def _pages(self, url: str, about: str, what: str, limit: int) -> Iterator[dict[str, Any]]:
        """Every entry of a list, page by page, of this hub alone."""
        count, following, deadline = 0, url, time.monotonic() + LISTING_SECONDS
        for _ in range(MAX_PAGES):
            if time.monotonic() > deadline:
                raise self._busy(what, f"its list takes longer than {LISTING_SECONDS:.0f} seconds")
            answer = self._ask(following, about, what)
            entries = self._parsed(answer, about)
            if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
                raise self._strange(about, "it is no list")
            count += len(entries)
            if count > limit:
                raise self._strange(about, f"it lists more than {limit}")
            yield from entries
            link = _NEXT.search(answer.headers.get("Link", ""))
            if link is None:
                return
            following = urljoin(following, link[1])
            if urlsplit(following)[:2] != urlsplit(self.hub.endpoint)[:2]:
                raise self._strange(about, "its next page lies elsewhere")
        raise self._strange(about, f"it has more than {MAX_PAGES} pages")

    def _document(self, url: str, about: str, what: str) -> Any:
        return self._parsed(self._ask(url, about, what), about)

    def _ask(self, url: str, about: str, what: str) -> Answer:
        answer = guarded.request("GET", url, self._asking, {**self._headers, "Accept": "application/json"})
        if answer.status != 200:
            self._refuse(answer.status, answer.headers, about, what)
        return answer

    def _parsed(self, answer: Answer, about: str) -> Any:
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError):
            raise self._strange(about, "it is no JSON") from None

    def _refuse(self, status: int, headers: httpx.Headers, about: str, what: str) -> NoReturn:
        """Raises what an error of the hub means; it tells by X-Error-Code, and answers 401 for what is not there."""
        code = headers.get("X-Error-Code", "")
        if code == "GatedRepo" or (status == 403 and not code):
            reason = "it is gated, or its token may not read it"
            raise DomainError("upstream.denied", upstream=self.hub.name, name=about, reason=reason)
        if code == "RepoNotFound" or (status == 401 and not code):
            raise DomainError("upstream.missing", upstream=self.hub.name, what="repository", name=about)
        if status in (404, 410):
            raise DomainError("upstream.missing", upstream=self.hub.name, what=f"{what} of", name=about)
        if status in CAN_PASS:
            raise self._busy(what, f"it answered {status}", _seconds(headers.get("Retry-After", "")))
        if status == 416:
            raise self.changed(what.removeprefix("file "), "it is shorter than it was listed")
        raise self._strange(about, f"it answered {status}")

    def _busy(self, what: str, reason: str, seconds: float | None = None) -> DomainError:
        return DomainError("upstream.unavailable", upstream=self.hub.name, what=what, reason=reason, seconds=seconds)

    def _strange(self, about: str, reason: str) -> DomainError:
        return DomainError("upstream.answer", upstream=self.hub.name, what=about[:200], reason=reason)

    def _api(self, repository: str) -> str:
        return f"{self.hub.endpoint}/api/models/{repository}"


def _cut(pieces: Iterator[bytes], skip: int, length: int) -> Iterator[bytes]:
    """`length` bytes after `skip`."""
    for piece in pieces:
        part = piece[skip : skip + length]
        skip -= min(skip, len(piece))
        length -= len(part)
        if part:
            yield part
        if not length:
            return


def _is_path(path: object) -> bool:
    """A plain path below the repository; what it is used for here must not depend on how somebody reads dots and slashes."""
    if not isinstance(path, str) or not 0 < len(path) <= MAX_PATH or not path.isprintable() or "\\" in path:
        return False
    return not {"", ".", ".."} & {*path.split("/")}


def _seconds(text: str) -> float | None:
    """What a Retry-After says in seconds, within reason; dates are not looked at."""
    return min(float(text), LONGEST_PAUSE) if text.isascii() and text.isdigit() and len(text) < 10 else None
