"""Asks a registry for the adapter of a patch on the release that an engine serves."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import httpx

from app.plugins.adapter_cache import CHUNK, File
from app.plugins.refusals import BusyError, Deadline, RefusedError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MAX_JSON, MAX_CONFIG = 2**20, 2**20
READ_SECONDS = 10.0
BUSY = (429, 503)  # the registry's way to say: later
PLAIN = {"strategy": "add", "dtype": None, "tokenizer": "release"}
OPTION = "vllm-adapter"

# As the registry names owners, patches, families and releases (app.domain.names); what else they may not be, it says itself.
_WORD = r"(?!.*(?:--|\.\.))[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_WORDS = re.compile(_WORD)
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_NAME = 100


@dataclass(frozen=True)
class Base:
    """The release that an engine serves."""

    family: str
    release: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """'base/llama@v2'. Raises `ValueError`."""
        repository, _, release = text.partition("@")
        family = repository.removeprefix("base/")
        if not (repository.startswith("base/") and _is_word(family) and _is_word(release)):
            raise ValueError(f"{text[:200]!r} is not base/FAMILY@RELEASE")
        return cls(family, release)

    @property
    def repository(self) -> str:
        return f"base/{self.family}"


@dataclass(frozen=True)
class Name:
    """What a model is asked for by: OWNER/PATCH, or OWNER/PATCH@N for one version of it."""

    patch: str
    version: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `RefusedError` (resolver.name)."""
        patch, mark, version = text[: MAX_NAME + 1].partition("@")
        parts = patch.split("/")
        is_name = len(text) <= MAX_NAME and len(parts) == 2 and all(map(_is_word, parts))
        if not is_name or (mark and not _NUMBER.fullmatch(version)):
            raise RefusedError("resolver.name", "It is not OWNER/PATCH or OWNER/PATCH@N.")
        return cls(patch, version or None)


@dataclass(frozen=True)
class Found:
    """An adapter on a release, pinned: its repository, the commit, and the files that an engine reads."""

    repository: str
    commit: str
    files: tuple[File, ...]


class Registry:
    """A registry, asked with one token; nothing is ever asked of another host."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}

    @cached_property
    def _client(self) -> httpx.Client:
        """Made when it is first needed: in the process that needs it, for making one takes a while."""
        return httpx.Client(headers=self._headers, follow_redirects=False)

    def find(self, base: Base, name: Name, deadline: Deadline) -> Found:
        """The adapter of a patch on a release, where serving.json says that vLLM can serve it.

        Raises:
            RefusedError: port.none; the code of what vLLM cannot serve; resolver.answer, resolver.unreachable, resolver.timeout;
                and the registry's own, for example patch.unknown.
        """
        asked = {"patch": name.patch, "version": name.version or "main", "family": base.family, "release": base.release}
        page = self._json("/api/v1/ports", {**asked, "state": "ready", "limit": "50"}, deadline)
        ports = [port for port in _items(page) if port.get("recipe") == PLAIN]
        if not ports:
            raise RefusedError("port.none", f"It has no ready port on {base.repository}@{base.release}.")
        ident = str(ports[0].get("id"))
        if not re.fullmatch(r"prt_[0-9a-f]{1,64}", ident):
            raise _unexpected("a port without an id")
        return _read(self._json(f"/api/v1/ports/{ident}/serving.json", {}, deadline), base, name)

    def chunks(self, found: Found, deadline: Deadline, file: File) -> Iterator[bytes]:
        """The bytes of a file, as they come.

        Raises:
            RefusedError: resolver.unreachable, resolver.timeout, resolver.answer, and the registry's own.
        """
        with self._get(f"/{found.repository}/resolve/{found.commit}/{file.path}", {}, deadline) as answer:
            for chunk in answer.iter_raw(CHUNK):
                deadline.remaining()
                yield chunk

    def _json(self, path: str, query: Mapping[str, str], deadline: Deadline) -> dict[str, Any]:
        with self._get(path, query, deadline) as answer:
            return _decoded(answer, deadline)

    @contextmanager
    def _get(self, path: str, query: Mapping[str, str], deadline: Deadline) -> Iterator[httpx.Response]:
        try:
            timeout = min(READ_SECONDS, deadline.remaining())
            with self._client.stream("GET", self._url + path, params=query, timeout=timeout) as answer:
                if answer.status_code != 200:
                    refused = _refusal(answer, deadline)
                    raise BusyError(refused.code, str(refused)) if answer.status_code in BUSY else refused
                yield answer
        except httpx.TimeoutException:
            raise RefusedError("resolver.timeout", "The registry did not answer in time.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RefusedError("resolver.unreachable", f"The registry cannot be asked ({type(error).__name__}).") from None


def check_config(text: bytes, base: Base) -> None:
    """Refuses an adapter_config.json that is not of a LoRA for this base.

    Raises:
        RefusedError: resolver.answer.
    """
    try:
        config = json.loads(text)
        said = (config["peft_type"], config["base_model_name_or_path"], config["revision"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _unexpected("an adapter_config.json that is not one") from None
    if said != ("LORA", base.repository, base.release):
        raise _unexpected("an adapter_config.json of something else")


def _read(document: Mapping[str, Any], base: Base, name: Name) -> Found:
    """What serving.json says, taken apart; every word of it that goes into a path or a request is checked."""
    try:
        said = (document["state"], document["patch"], document["family"], document["release"])
        if said != ("ready", name.patch, base.family, base.release):
            raise _unexpected("another port than was asked for")
        if name.version and str(document["version"]) != name.version:
            raise _unexpected("another version than was asked for")
        _require_servable(next(option for option in document["options"] if option["name"] == OPTION))
        adapter = document["adapter"]
        files = tuple(File(one["path"], one["size"], one["sha256"]) for one in adapter["files"])
        found = Found(adapter["repository"], adapter["commit"], files)
    except (KeyError, TypeError, StopIteration):
        raise _unexpected("a serving.json that is not one") from None
    fits = found.repository == name.patch and isinstance(found.commit, str) and _COMMIT.fullmatch(found.commit)
    if not fits or [file.path for file in files] != [CONFIG, WEIGHTS] or not all(map(_is_file, files)):
        raise _unexpected("an adapter that is not one")
    return found


def _require_servable(option: Mapping[str, Any]) -> None:
    if option["servable"] is not True:
        reason = next(reason for reason in option["reasons"] if reason["severity"] == "refuse")
        raise RefusedError(str(reason["code"])[:60], str(reason["message"])[:500])


def _is_file(file: File) -> bool:
    is_size = type(file.size) is int and file.size > 0 and (file.path != CONFIG or file.size <= MAX_CONFIG)
    return is_size and isinstance(file.sha256, str) and bool(_SHA256.fullmatch(file.sha256))


def _items(page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    items = page.get("items")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _unexpected("a list that is not one")
    return items


def _decoded(answer: httpx.Response, deadline: Deadline) -> dict[str, Any]:
    body = bytearray()
    for chunk in answer.iter_raw(CHUNK):
        deadline.remaining()
        body += chunk
        if len(body) > MAX_JSON:
            raise _unexpected(f"more than {MAX_JSON} bytes")
    try:
        loaded = json.loads(body)
    except (ValueError, RecursionError):
        loaded = None
    if not isinstance(loaded, dict):
        raise _unexpected(f"{answer.status_code} and no JSON object")
    return loaded


def _refusal(answer: httpx.Response, deadline: Deadline) -> RefusedError:
    """What the registry says in its own words, where it does."""
    problem = _decoded(answer, deadline)
    code, detail = problem.get("code"), problem.get("detail")
    if not isinstance(code, str) or not re.fullmatch(r"[a-z_]{1,40}\.[a-z0-9_]{1,40}", code):
        return _unexpected(f"status {answer.status_code}")
    return RefusedError(code, str(detail)[:500])


def _unexpected(what: str) -> RefusedError:
    return RefusedError("resolver.answer", f"The registry answered with {what}.")


def _is_word(text: str) -> bool:
    return bool(_WORDS.fullmatch(text)) and not text.endswith((".git", ".merged"))
