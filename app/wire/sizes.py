"""How much may be in a JSON body: counted before anybody parses it.

Of three bytes of JSON (`[],`) Python makes an object of 56 bytes and a place in a list: a body of 8 MiB became 200 MiB. So the
parts of a body are counted first: each list, each object and all but the first of their members begin with a byte of their own.
Depth needs no limit here, Python's parser has one.
"""

from app.domain.errors import DomainError

# A file of a list is an object of three members: three times what the longest list needs.
MAX_PARTS = 2**17
BEGINNINGS = (b"[", b"{", b",")


def require_simple(body: bytes | bytearray) -> None:
    """Raises `DomainError` (request.too_complex) where there is more in a body than in any that means something."""
    if len(body) > MAX_PARTS and (parts := sum(map(body.count, BEGINNINGS))) > MAX_PARTS:
        raise DomainError("request.too_complex", parts=parts, limit=MAX_PARTS)
