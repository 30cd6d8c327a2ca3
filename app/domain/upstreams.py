"""Upstreams: hubs that an installation pulls from, and how people name what lies there (`hf:org/name@revision`)."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

from app.domain.errors import DomainError

HUB = "hf"
HUB_ENDPOINT = "https://huggingface.co"
MAIN = "main"
EVERYTHING = "*"
MAX_REFERENCE = 400
MAX_ENDPOINT = 500

# A scheme such as s3:// is no upstream's name.
_REFERENCE = re.compile(r"(?P<upstream>[a-z0-9][a-z0-9._-]*):(?!//)(?P<rest>.*)", re.DOTALL)
# What the Hub takes for a name: https://huggingface.co/docs/huggingface_hub, `validate_repo_id`.
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})?")
_OWNER = re.compile(_PART)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/@+-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
MAX_REPOSITORY = 96


@dataclass(frozen=True)
class Reference:
    """Something in an upstream, as somebody named it; `repository` is `org/*` for all of an organisation."""

    upstream: str
    repository: str
    revision: str = MAIN

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises `DomainError` (upstream.reference)."""
        found = _REFERENCE.fullmatch(text) if len(text) <= MAX_REFERENCE else None
        if found is None:
            raise _no_reference(text, "it does not begin with the name of an upstream and a colon")
        repository, at, revision = found["rest"].partition("@")
        if not _is_repository(repository) and not (repository.endswith("/*") and _OWNER.fullmatch(repository[:-2])):
            raise _no_reference(text, "what follows the colon is no repository")
        if at and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise _no_reference(text, "what follows the @ is no revision")
        return cls(found["upstream"], repository, revision or MAIN)

    @property
    def organisation(self) -> str | None:
        """Whose repositories are meant, where it is all of somebody's."""
        return self.repository[:-2] if self.repository.endswith("/*") else None

    def require_repository(self) -> None:
        """Raises `DomainError` (upstream.reference) where it is a whole organisation."""
        if self.organisation:
            raise _no_reference(str(self), "it names an organisation where one repository is meant")

    def __str__(self) -> str:
        return f"{self.upstream}:{self.repository}@{self.revision}"


def is_reference(text: str) -> bool:
    """Whether a text names something in an upstream, and not a directory or a place in S3."""
    return _REFERENCE.fullmatch(text[:MAX_REFERENCE]) is not None


def is_commit(text: object) -> bool:
    """Whether a hub's answer is an immutable revision."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


@dataclass(frozen=True)
class Hub:
    """An upstream as a client needs it.

    Attributes:
        name: what people call it here.
        endpoint: its address, without a slash at the end.
        token: sent to this address and nowhere else.
        private_hosts: names or addresses that may lie in a private network.
        http_hosts: those that may be asked without TLS.
    """

    name: str
    endpoint: str
    token: str | None = field(default=None, repr=False)
    private_hosts: tuple[str, ...] = ()
    http_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub lists it; of `sha256` (large files) and `git_sha1` (all others) one is there.

    Attributes:
        size: in bytes.
        git_sha1: of git's blob object: the content with a header before it.
    """

    path: str
    size: int
    sha256: str | None
    git_sha1: str | None

    @property
    def key(self) -> str:
        """A name for its content that is ours to use as a key: the same for the same content, and never a path."""
        return self.sha256 or f"git-{self.git_sha1}"

    def to_list(self) -> list[Any]:
        return [self.path, self.size, self.sha256, self.git_sha1]


def check_endpoint(address: str, http_hosts: Collection[str]) -> str:
    """An address that can be an upstream's, without a slash at its end.

    Raises:
        DomainError: upstream.endpoint.
    """
    try:
        parts = urlsplit(address)
        host, has_port = parts.hostname, parts.port != 0
    except ValueError:
        host, has_port = None, False
    plain = address.isascii() and address.isprintable() and not {" ", "\\", "%"} & {*address} and len(address) <= MAX_ENDPOINT
    if not host or not has_port or not plain or parts.scheme not in ("https", "http"):
        raise _no_endpoint(address, "it is no address such as https://huggingface.co")
    if "@" in parts.netloc or "?" in address or "#" in address:
        raise _no_endpoint(parts.hostname or "", "it holds a user, a query or a fragment")
    if parts.scheme == "http" and host not in http_hosts:
        raise _no_endpoint(address, "it must begin with https://, unless its host is one of http_hosts")
    return address.rstrip("/")


def _is_repository(text: str) -> bool:
    return bool(_REPOSITORY.fullmatch(text)) and len(text) <= MAX_REPOSITORY and ".." not in text


def _no_reference(text: str, reason: str) -> DomainError:
    return DomainError("upstream.reference", reference=text[:200], reason=reason)


def _no_endpoint(address: str, reason: str) -> DomainError:
    return DomainError("upstream.endpoint", endpoint=address[:200], reason=reason)
