"""Signed addresses of workers: short-lived leave to read one merged file, without a token.

A worker knows no tokens. The registry signs what it has allowed, with the key that both know, and the worker believes the
signature: one file, for reading, on one worker, until a time.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable

from app.domain.errors import DomainError

PURPOSE = "portllm worker read 1"  # tells these signatures from others that the same key may make
# Long enough for a client that waits its turn; a read that began goes on.
SECONDS = 300


def sign_read(key: bytes, worker: str, port: str, path: str, expires: int) -> str:
    """Signature (hex) that lets its bearer read a file of a port on a worker until `expires`, in seconds since 1970."""
    text = json.dumps([PURPOSE, worker, port, path, expires])
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def check_read(keys: Iterable[bytes], worker: str, port: str, path: str, expires: int, signature: str) -> None:
    """Raises `DomainError` (worker.signature) unless the signature allows this read until `expires`; several keys while one
    replaces another.
    """
    for key in keys:
        if hmac.compare_digest(sign_read(key, worker, port, path, expires).encode(), signature.encode()):
            return
    raise DomainError("worker.signature")
