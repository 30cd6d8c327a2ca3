"""Identity tokens of OpenID Connect: the keys of an issuer, fetched through the guarded client, and tokens verified with them.

PyJWT verifies; here is said what is demanded. Sources: OpenID Connect Discovery 1.0, OpenID Connect Core 3.1.3.7, RFC 7515,
RFC 7517, RFC 8725 (best practices).

PyJWT with its cryptography, and the HTTP client, are imported with the first token: most installations trust no issuer.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

from app.clients.addresses import Reach
from app.domain.errors import DomainError
from app.domain.issuers import Identity, Issuer

DISCOVERY = "/.well-known/openid-configuration"
MAX_CHARACTERS = 16 * 1024
MAX_SUBJECT = 255  # OpenID Connect Core 2
MAX_KEYS = 100
LEEWAY_SECONDS = 30
# A used token is remembered until it expires: one of a hundred years would be, too. Google takes none of more than a day either
# (Workload Identity Federation), and common issuers give them for minutes or hours.
MAX_LIFETIME_SECONDS = 24 * 3600
# For each of the two documents; people and pipelines wait for them.
REACH = Reach(max_bytes=2**18, connect_seconds=2.0, read_seconds=3.0, total_seconds=4.0)
KINDS = ("RSA", "EC", "OKP")
REQUIRED = ["iss", "sub", "aud", "exp", "iat"]
# What PyJWT may raise beside its own errors, for claims and keys of strange types and sizes.
STRANGE = (ValueError, TypeError, KeyError, ArithmeticError, RecursionError)


class Unverified(NamedTuple):
    """What a token says of itself: enough to know whose keys it must be verified with, and nothing to believe."""

    issuer: str
    algorithm: str
    key_id: str | None


@dataclass(frozen=True)
class Keys:
    """The public keys of an issuer, as it publishes them (JWK)."""

    members: tuple[Mapping[str, Any], ...] = field(repr=False)

    def find(self, said: Unverified) -> Mapping[str, Any] | None:
        """The key that a token names; where it names none, the only one. None for an unknown one.

        Raises:
            DomainError: oidc.token, where it names none of several.
        """
        if said.key_id is not None:
            return next((key for key in self.members if key.get("kid") == said.key_id), None)
        if len(self.members) > 1:
            raise refused("it does not say which of its issuer's keys signed it")
        return self.members[0] if self.members else None


def refused(reason: str) -> DomainError:
    """The refusal of a token."""
    return DomainError("oidc.token", reason=reason)


def read(token: str) -> Unverified:
    """What a token says of itself.

    Raises:
        DomainError: oidc.token, for one that cannot be valid whoever signed it.
    """
    import jwt  # noqa: PLC0415

    if len(token) > MAX_CHARACTERS:
        raise refused(f"it is longer than {MAX_CHARACTERS} characters")
    try:
        whole = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, *STRANGE):
        raise refused("it is no signed JSON Web Token") from None
    header, issuer = whole["header"], whole["payload"].get("iss")
    algorithm, key_id = header.get("alg"), header.get("kid")
    if "crit" in header:
        raise refused("it demands an extension (crit)")
    if not isinstance(issuer, str) or not isinstance(algorithm, str) or not isinstance(key_id, str | None):
        raise refused("it does not say who signed it and how")
    return Unverified(issuer, algorithm, key_id)


def verify(token: str, said: Unverified, issuer: Issuer, key: Mapping[str, Any]) -> Identity:
    """Whom an issuer vouches for.

    Args:
        said: of this token.
        key: the one of the issuer's keys that it names.

    Raises:
        DomainError: oidc.token.
    """
    import jwt  # noqa: PLC0415

    if said.algorithm not in issuer.algorithms or key.get("alg", said.algorithm) != said.algorithm:
        raise refused(_own_errors()[jwt.InvalidAlgorithmError])
    try:
        # The key is read as one of the token's algorithm: a key of another kind is then none.
        public = jwt.PyJWK.from_dict(dict(key), algorithm=said.algorithm)
        claims = jwt.decode(
            token, public, algorithms=[said.algorithm], audience=issuer.audiences, issuer=issuer.issuer, leeway=LEEWAY_SECONDS,
            options={"require": REQUIRED, "enforce_minimum_key_length": True},
        )  # fmt: skip
    except jwt.MissingRequiredClaimError as error:
        raise refused(f"it lacks the claim {error.claim}") from None
    except (jwt.PyJWTError, *STRANGE) as error:
        raise refused(_words(error)) from None
    subject = claims["sub"]
    if not isinstance(subject, str) or not subject or len(subject) > MAX_SUBJECT or not subject.isprintable():
        raise refused(f"its subject is empty, longer than {MAX_SUBJECT} characters, or holds characters that cannot be shown")
    expires = int(claims["exp"])
    if expires - int(claims["iat"]) > MAX_LIFETIME_SECONDS:
        raise refused(f"it is valid for longer than {MAX_LIFETIME_SECONDS // 3600} hours")
    ends_at = dt.datetime.fromtimestamp(expires + LEEWAY_SECONDS, dt.UTC)
    return Identity(issuer, subject, claims, _mark(token, issuer, claims.get("jti")), ends_at)


def fetch_keys(issuer: Issuer) -> Keys:
    """Asks an issuer where its keys are, and for them.

    Raises:
        DomainError: oidc.unavailable, with the reason in words.
    """
    reach = replace(REACH, private_hosts=issuer.private_hosts, http_hosts=issuer.http_hosts)
    about = _document(issuer, issuer.issuer.rstrip("/") + DISCOVERY, reach)
    if about.get("issuer") != issuer.issuer:
        raise unavailable(issuer, "the document at its address is another issuer's")
    where = about.get("jwks_uri")
    if not isinstance(where, str):
        raise unavailable(issuer, "it does not say where its keys are")
    listed = _document(issuer, where, reach).get("keys")
    if not isinstance(listed, list):
        raise unavailable(issuer, "it lists no keys")
    return Keys(tuple(key for key in listed[:MAX_KEYS] if _signs(key)))


def unavailable(issuer: Issuer, reason: str) -> DomainError:
    """The refusal where an issuer cannot be asked."""
    return DomainError("oidc.unavailable", issuer=issuer.issuer, reason=reason)


def _signs(key: Any) -> bool:
    """Whether it is a public key that signatures are verified with."""
    return isinstance(key, dict) and key.get("kty") in KINDS and key.get("use", "sig") == "sig"


def _document(issuer: Issuer, url: str, reach: Reach) -> dict[str, Any]:
    """A JSON object of an issuer's."""
    from app.clients import guarded  # noqa: PLC0415

    try:
        answer = guarded.request("GET", url, reach, {"Accept": "application/json"})
    except DomainError as error:
        raise unavailable(issuer, error.detail.rstrip(".")) from error
    if answer.status != 200:
        raise unavailable(issuer, f"it answered {answer.status}")
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise unavailable(issuer, "its answer is no JSON object")
    return document


def _mark(token: str, issuer: Issuer, jti: Any) -> str:
    """See `Identity`. Both kinds begin with a word of their own: no `jti` can be chosen to be another token's signed part."""
    known = ("jti", issuer.issuer, jti) if isinstance(jti, str) and jti else ("signed", token.rpartition(".")[0])
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _words(error: Exception) -> str:
    known = (words for kind, words in _own_errors().items() if isinstance(error, kind))
    return next(known, "it cannot be verified with the key that it names")


@cache
def _own_errors() -> dict[type[Exception], str]:
    """PyJWT's errors, in words."""
    import jwt  # noqa: PLC0415

    return {
        jwt.ExpiredSignatureError: "it has expired",
        jwt.ImmatureSignatureError: "it is not valid yet",
        jwt.InvalidAudienceError: "it was made for another audience",
        jwt.InvalidIssuerError: "it names another issuer",
        jwt.InvalidAlgorithmError: "it is signed by an algorithm that its issuer is not trusted with",
        jwt.InvalidSignatureError: "its signature is not its issuer's",
    }
