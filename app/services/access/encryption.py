"""Secrets at rest: what must be given back as it was, encrypted under the installation's key (PORTLLM_SECRET_KEY).

AES-256-GCM (NIST SP 800-38D) under a key that HKDF (RFC 5869) derives for this purpose. What a secret is for, its row and what
must not change beside it are authenticated with it: text that is moved to another row or another address cannot be decrypted.

    s1.{name of the key, 16 hex}.{base64url of nonce (12 bytes), ciphertext and tag}

The library is imported where it is used: a registry that keeps no secret need not pay for it at every start.
"""

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass

from app.db import upstreams
from app.db.upstreams import Upstream
from app.domain.errors import DomainError
from app.services.unit_of_work import UnitOfWork

FORMAT = "s1"
NONCE_BYTES, NAME_BYTES = 12, 8
NAMING, SEALING = b"portllm name of a key 1", b"portllm secret at rest 1"


@dataclass(frozen=True)
class SecretContext:
    """Where a secret is kept: whatever is named here is authenticated with it.

    Attributes:
        purpose: table and column.
        row: its id.
        beside: what the secret belongs to, for example the address that it is sent to.
        shown: what people call it.
    """

    purpose: str
    row: str
    beside: str
    shown: str

    @property
    def bound(self) -> bytes:
        return "\0".join((self.purpose, self.row, self.beside)).encode()


def place_of(row: Upstream) -> SecretContext:
    """Where the token of an upstream is kept: it is worth nothing for another address."""
    return SecretContext("upstreams.token", row.id, row.endpoint, f"The token of upstream {row.name!r}")


def seal(keys: Sequence[bytes], place: SecretContext, secret: str) -> str:
    """Encrypts a secret under the first key."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    nonce = os.urandom(NONCE_BYTES)
    sealed = nonce + AESGCM(_derived(keys[0], SEALING)).encrypt(nonce, secret.encode(), place.bound)
    return f"{FORMAT}.{name_of(keys[0])}.{base64.urlsafe_b64encode(sealed).decode()}"


def unseal(keys: Sequence[bytes], place: SecretContext, sealed: str) -> str:
    """The secret.

    Raises:
        DomainError: secret.key, when none of the keys is the one; secret.damaged.
    """
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    form, _, rest = sealed.partition(".")
    name, _, text = rest.partition(".")
    key = next((key for key in keys if name_of(key) == name), None)
    if form != FORMAT or len(name) != 2 * NAME_BYTES:
        raise DomainError("secret.damaged", what=place.shown)
    if key is None:
        raise DomainError("secret.key", what=place.shown, key=name)
    try:
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
        return AESGCM(_derived(key, SEALING)).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], place.bound).decode()
    except (InvalidTag, binascii.Error, ValueError):
        raise DomainError("secret.damaged", what=place.shown) from None


def name_of(key: bytes) -> str:
    """What a key is called where it is not shown: derived from it, and nothing about it can be told from that."""
    return _derived(key, NAMING)[:NAME_BYTES].hex()


@dataclass(frozen=True)
class Rotation:
    """What became of all secrets: how many were encrypted anew, and were so already; and why others could not be."""

    renewed: int
    fresh: int
    lost: list[DomainError]


def reencrypt(uow: UnitOfWork) -> Rotation:
    """Encrypts all secrets under the newest key; those that cannot be decrypted stay as they are.

    Args:
        uow: a transaction that writes.
    """
    keys = uow.tools.secret_keys
    newest, renewed, fresh, lost = name_of(keys[0]), 0, 0, list[DomainError]()
    for row in upstreams.locked(uow.session):
        if row.token is None:
            continue
        place = place_of(row)
        try:
            secret = unseal(keys, place, row.token)
        except DomainError as error:
            lost.append(error)
            continue
        if row.token.split(".")[1] == newest:
            fresh += 1
            continue
        row.token = seal(keys, place, secret)
        renewed += 1
    return Rotation(renewed, fresh, lost)


def _derived(key: bytes, purpose: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    return HKDF(SHA256(), 32, None, purpose).derive(key)
