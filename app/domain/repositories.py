"""Repositories and revisions: the names under which the Hub protocol knows what the registry has.

    base/{family}             main, RELEASE (and N@RELEASE)          a release
    {owner}/{patch}           main, ALIAS, N, N@RELEASE              a version of a patch; rewritten for a release
    {owner}/{patch}.merged    main, RELEASE, RELEASE@N               a merged model

Every repository also has the commits that these resolve to, by 40 hex digits.
"""

import re
from dataclasses import dataclass
from typing import Literal

from app.domain.errors import DomainError
from app.domain.names import check_name, check_patch, check_revision

Kind = Literal["base", "patch", "merged"]
BASE, MERGED, MAIN = "base", ".merged", "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository: `owner` is "base" for a family's, `name` the family's or the patch's (without ".merged")."""

    kind: Kind
    owner: str
    name: str

    @property
    def full_name(self) -> str:
        return f"{self.owner}/{self.name}{MERGED if self.kind == 'merged' else ''}"


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision, taken apart. One of these is set, or `release` together with `version`; nothing is: main.

    Attributes:
        commit: 40 hex digits.
        release: name of a release.
        version: number of a version.
        alias: name of an alias.
    """

    text: str
    commit: str | None = None
    release: str | None = None
    version: int | None = None
    alias: str | None = None


def parse_repository(owner: str, name: str) -> Repository:
    """Raises `DomainError` (hub.repository) for what cannot be the name of a repository."""
    try:
        if owner == BASE:
            return Repository("base", BASE, check_name(name, "a family"))
        stem = name.removesuffix(MERGED)
        check_patch(owner, stem)
    except DomainError:
        raise unknown_repository(f"{owner}/{name}") from None
    return Repository("patch" if stem == name else "merged", owner, stem)


def unknown_repository(full_name: str) -> DomainError:
    return DomainError("hub.repository", repository=full_name[:200])


def parse_revision(repository: Repository, text: str) -> Revision:
    """Raises `DomainError` (hub.revision) for what cannot be a revision of this kind of repository."""
    if text == MAIN:
        return Revision(text)
    if _COMMIT.fullmatch(text):
        return Revision(text, commit=text)
    if found := _parse(repository.kind, text):
        return found
    raise unknown_revision(repository, text)


def unknown_revision(repository: Repository, text: str) -> DomainError:
    return DomainError("hub.revision", repository=repository.full_name, revision=text[:200])


def _parse(kind: Kind, text: str) -> Revision | None:
    first, mark, second = text.partition("@")
    if kind == "base" and mark and _NUMBER.fullmatch(first) and _is_name(second):
        # transformers asks a base for the revision that it was asked for of an adapter.
        return Revision(text, release=second)
    if kind == "patch" and _NUMBER.fullmatch(first) and (not mark or _is_name(second)):
        return Revision(text, version=int(first), release=second or None)
    if mark and kind == "merged" and _is_name(first) and _NUMBER.fullmatch(second):
        return Revision(text, release=first, version=int(second))
    if mark or not _is_name(text):
        return None
    return Revision(text, alias=text) if kind == "patch" else Revision(text, release=text)


def _is_name(text: str) -> bool:
    """Whether a release or an alias can have this name."""
    try:
        check_revision(text, "a revision")
    except DomainError:
        return False
    return True
