"""What people and registries call things, as parts of an address.

HTTP clients resolve '.' and '..' and servers take an escaped '/' for a plain one, so a name with either could reach
another thing than the one that was named.
"""

from urllib.parse import quote

from app.cli.client import RefusedError
from app.cli.output import EXIT_USAGE

DOTS = ("", ".", "..")


def segment(name: object) -> str:
    """A name as one segment of a path, escaped.

    Raises:
        RefusedError: client.name (exit code 2), for what can be no name.
    """
    text = str(name)
    if text in DOTS or {"/", "\\"} & {*text} or not text.isprintable():
        reason = "it holds '/', '\\' or what cannot be printed" if text not in DOTS else "it is empty or consists of dots"
        raise RefusedError("client.name", f"{text!r} cannot be a name: {reason}. Check the command's words.", EXIT_USAGE)
    return quote(text, safe="")


def patch_path(owner: str, name: str) -> str:
    """Where a patch lies below /api/v1."""
    return f"/patches/{segment(owner)}/{segment(name)}"


def release_path(family: str, name: str) -> str:
    """Where a release lies below /api/v1."""
    return f"/families/{segment(family)}/releases/{segment(name)}"


def file_path(path: str) -> str:
    """A file's path as the registry names it, each part escaped.

    Raises:
        RefusedError: pull.path, where the address would be another file's.
    """
    parts = path.split("/")
    if any(part in DOTS for part in parts):
        raise RefusedError("pull.path", f"The registry names a file {path!r}, which is no plain path.")
    return "/".join(quote(part, safe="") for part in parts)
