"""Names people give: one place that says what may be one."""

import re

from app.domain.errors import DomainError

MAX_NAME = 64
MAX_REPOSITORY = 89
# The last is `principal.INSTALLATION`, which owns what belongs to nobody in particular.
RESERVED_OWNERS = frozenset({"base", "api", "v1", "ui", "cas", "docs", "registry"})
UNKNOWN = "unknown"

_PLAIN = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_MARKS = re.compile(r"\.{2,}|-{2,}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_name(name: str, what: str) -> str:
    """A family or the second half of a patch's name.

    Raises:
        DomainError: request.name.
    """
    reason = None
    if not _PLAIN.fullmatch(name):
        reason = "it holds other characters, or begins or ends with a mark"
    elif len(name) > MAX_NAME:
        reason = "it is too long"
    elif "--" in name or ".." in name:
        reason = "it holds '--' or '..'"
    elif name.endswith((".git", ".merged")):
        reason = "it ends in .git or .merged"
    if reason:
        raise DomainError("request.name", name=name[:100], what=what, reason=reason, limit=MAX_NAME)
    return name


def check_revision(name: str, what: str) -> str:
    """A release or an alias: what may stand where a revision stands, and cannot be taken for a version or a commit."""
    check_name(name, what)
    if name.isdigit() or _COMMIT.fullmatch(name) or name in ("main", UNKNOWN):
        raise DomainError("request.name", name=name, what=what, reason="it is reserved for versions and commits", limit=MAX_NAME)
    return name


def check_owner(name: str) -> str:
    """An owner."""
    check_name(name, "an owner")
    if name in RESERVED_OWNERS:
        raise DomainError("request.name", name=name, what="an owner", reason="it is reserved", limit=MAX_NAME)
    return name


def patch_name_of(repository: str) -> str:
    """The name that a repository of another hub gets here: lower case, marks in a row made one, none at its ends.

    Whether it can be one is asked by `check_patch`.
    """
    return _MARKS.sub(lambda found: found[0][0], repository.rpartition("/")[2].lower()).strip("._-")


def check_patch(owner: str, name: str) -> str:
    """A patch's full name, owner/name."""
    full = f"{check_owner(owner)}/{check_name(name, 'a patch')}"
    if len(full) > MAX_REPOSITORY:
        raise DomainError("request.name", name=full, what="a patch", reason="it is too long", limit=MAX_REPOSITORY)
    return full
