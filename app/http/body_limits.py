"""Limits the number of elements in a JSON body, which are counted before it is parsed.

Python turns three bytes of JSON (`[],`) into an object of 56 bytes and an entry in a list: a body of 8 MiB became 200 MiB.
Therefore the elements of a body are counted first: one byte marks each list, each object, and every member after the first. Depth
needs no limit here, because Python's parser has one.
"""

from app.domain.errors import DomainError

# A file of a list is an object of three members: three times what the longest list needs.
MAX_PARTS = 2**17
BEGINNINGS = (b"[", b"{", b",")


def require_simple(body: bytes | bytearray) -> None:
    """Raises `DomainError` (request.too_complex) where there is more in a body than in any that means something."""
    if len(body) > MAX_PARTS and (parts := sum(map(body.count, BEGINNINGS))) > MAX_PARTS:
        raise DomainError("request.too_complex", parts=parts, limit=MAX_PARTS)
