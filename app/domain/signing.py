"""What we sign: addresses of workers, and leave to send bytes; both short-lived, both without a token.

A worker knows no tokens. The registry signs what it has allowed, with the key that both know, and the worker believes the
signature: one file, for reading, on one worker, until a time.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from typing import Any

from app.domain.errors import DomainError

# The minimum length of every signing key. A shorter key could be guessed offline from a single signature.
MIN_KEY_BYTES = 32
PURPOSE = "portllm worker read 1"  # tells these signatures from others that the same key may make
# Long enough for a client that waits its turn; a read that began goes on.
SECONDS = 300


def sign_read(key: bytes, worker: str, port: str, path: str, expires: int, token: str = "") -> str:
    """Returns a signature (hex) that lets its bearer read a file of a port on a worker until `expires` (seconds since 1970).

    The signature is valid only while the token with the id `token` may read the file. Older services name no token.
    """
    text = json.dumps([PURPOSE, worker, port, path, expires, *([token] if token else [])])
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def check_read(
    keys: Iterable[bytes], worker: str, port: str, path: str, expires: int, signature: str, token: str = ""
) -> None:  # fmt: skip
    """Raises `DomainError` (worker.signature) unless the signature allows this read until `expires`; several keys while one
    replaces another.
    """
    for key in keys:
        if hmac.compare_digest(sign_read(key, worker, port, path, expires, token).encode(), signature.encode()):
            return
    raise DomainError("worker.signature")


UPLOAD_PURPOSE = "portllm upload 1"
# As long as a client may need to hash and queue what it sends; a body that began goes on.
UPLOAD_SECONDS = 3600


def sign_claims(key: bytes, claims: Mapping[str, Any]) -> str:
    """Claims as a text of letters, digits, '-', '_' and '.', which stands for a token where a client sends none of ours.

    Args:
        key: ours.
        claims: plain values; `exp` is when they end, in seconds since 1970.
    """
    body = base64.urlsafe_b64encode(json.dumps(claims, separators=(",", ":")).encode()).decode().rstrip("=")
    return f"{body}.{_sign_text(key, body)}"


def read_claims(keys: Iterable[bytes], text: str, present: float) -> dict[str, Any]:
    """What was signed.

    Args:
        keys: all that are believed.
        text: what a client sent.
        present: seconds since 1970.

    Raises:
        DomainError: upload.signature; upload.expired.
    """
    body, _, signature = text.partition(".")
    if not any(hmac.compare_digest(_sign_text(key, body).encode(), signature.encode()) for key in keys):
        raise DomainError("upload.signature")
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    if present > claims["exp"]:
        raise DomainError("upload.expired")
    return claims


def _sign_text(key: bytes, text: str) -> str:
    return hmac.new(key, f"{UPLOAD_PURPOSE} {text}".encode(errors="replace"), hashlib.sha256).hexdigest()
