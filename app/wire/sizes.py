"""How large a JSON body may be, and how much may be in it: asked before anybody parses it.

Of three bytes of JSON (`[],`) Python makes an object of 56 bytes and a place in a list: a body of 8 MiB became 200 MiB. So bodies
are small but where a list is sent, and what is in them is counted before: each list, each object and all but the first of their
members begin with a byte of their own, whatever else the body holds. Depth needs no bound of its own, Python's parser has one.
"""

import re

from app.domain.errors import DomainError

SMALL = 64 * 2**10
# Announces the files of a version, up to 10,000.
LISTING = re.compile(r"/api/v1/patches/[^/]+/[^/]+/versions")
# A file of a list is an object of three members: three times what the longest list needs.
MAX_PARTS = 2**17
BEGINNINGS = (b"[", b"{", b",")


def limit_of(path: str, prefix: str, largest: int) -> int:
    """How many bytes the body of a request may have.

    Args:
        path: that it is sent to.
        prefix: below which bodies are small; what lies elsewhere says for itself what it takes.
        largest: of all.
    """
    return min(SMALL, largest) if path.startswith(prefix) and not LISTING.fullmatch(path) else largest


def require_simple(body: bytes | bytearray) -> None:
    """Raises `DomainError` (request.too_complex) where there is more in a body than in any that means something."""
    if len(body) > MAX_PARTS and (parts := sum(map(body.count, BEGINNINGS))) > MAX_PARTS:
        raise DomainError("request.too_complex", parts=parts, limit=MAX_PARTS)
