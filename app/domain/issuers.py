"""Issuers of identity tokens (OpenID Connect) that an installation trusts, and what their claims let somebody be here."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

from app.domain.errors import DomainError
from app.domain.names import check_owner
from app.domain.principal import ROLES

# Verified with a public key. With a shared secret (HS...) whoever knows it can speak for everybody; `none` verifies nothing.
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
LONGEST = 500  # characters of an issuer's address
# Read from outside: a misspelt field would else be left out without a word.
STRICT = {"extra": "forbid"}


@dataclass(frozen=True)
class AdmissionRule:
    """Whom it lets in, and as what.

    Attributes:
        claims: all of them must be in a token: equal, or among the members where the token has a list.
        owner, role: what the token that is given out is bound to.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    claims: dict[str, str | int | bool]
    owner: str
    role: str

    def __post_init__(self) -> None:
        """Raises ValueError for a rule that says less than it must."""
        if not self.claims:
            raise ValueError("must have claims: a rule without any would let everybody in")
        if not all(name and value != "" for name, value in self.claims.items()):
            raise ValueError("must have a name and a value for every claim")
        if self.role not in ROLES:
            raise ValueError(f"must have one of the roles {', '.join(ROLES)}")
        try:
            check_owner(self.owner)
        except DomainError:
            raise ValueError("must have an owner that can be one") from None

    def admits(self, claims: Mapping[str, Any]) -> bool:
        """Whether all its claims are in a token's."""
        return all(_has(claims.get(name), wanted) for name, wanted in self.claims.items())


@dataclass(frozen=True)
class Issuer:
    """One that is trusted.

    Attributes:
        issuer: its address, which tokens name letter by letter as `iss`.
        audience: what tokens for this registry name as `aud`.
        rules: the first that admits a token counts.
        client_id: under which `portllm login` asks it to let a person in; tokens made for this client are taken too.
        scopes: what `portllm login` asks it for.
        algorithms: by which it may sign.
        max_lifetime: seconds that tokens given out for its word are valid at most; where it is less than the installation's.
        single_use: whether each of its tokens is exchanged once. False only where jobs cannot do else: GitLab gives a job one
            token, for all its steps. Whoever finds such a token in a log can then exchange it until it expires.
        private_hosts: names or addresses that may lie in a private network.
        http_hosts: those that may be asked without TLS.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = STRICT

    issuer: str
    audience: str
    rules: tuple[AdmissionRule, ...]
    client_id: str | None = None
    scopes: tuple[str, ...] = ("openid",)
    algorithms: tuple[str, ...] = ASYMMETRIC
    max_lifetime: int | None = None
    single_use: bool = True
    private_hosts: frozenset[str] = field(default_factory=frozenset)
    http_hosts: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be trusted so."""
        check_address(self.issuer, self.http_hosts)
        if not self.audience or self.client_id == "":
            raise ValueError("must have an audience, and a client_id that is not empty or none")
        if not self.rules:
            raise ValueError("must have rules: without any nobody is let in")
        if not self.algorithms or not set(self.algorithms) <= set(ASYMMETRIC):
            raise ValueError(f"must have algorithms out of {', '.join(ASYMMETRIC)}")
        if "openid" not in self.scopes:
            raise ValueError("must have openid among its scopes")
        if self.max_lifetime is not None and self.max_lifetime < 1:
            raise ValueError("must have a max_lifetime of at least 1 second")

    @property
    def audiences(self) -> tuple[str, ...]:
        """What tokens may be made for."""
        return (self.audience, self.client_id) if self.client_id else (self.audience,)

    def rule_for(self, claims: Mapping[str, Any]) -> tuple[int, AdmissionRule] | None:
        """The first rule that admits a token, with its number from 1."""
        return next(((number, rule) for number, rule in enumerate(self.rules, 1) if rule.admits(claims)), None)


@dataclass(frozen=True)
class Identity:
    """Somebody whom an issuer vouches for: what its token said, verified.

    Attributes:
        mark: sha256 in hex by which the token is known again: of issuer and `jti`; of what was signed, where it has none. Never
            of the signature: an elliptic one has a twin that is valid too.
        ends_at: when it has expired for everybody.
    """

    issuer: Issuer
    subject: str
    claims: Mapping[str, Any]
    mark: str
    ends_at: dt.datetime


def check_address(address: str, http_hosts: Sequence[str] | frozenset[str]) -> None:
    """Raises ValueError unless an address can be an issuer's: https, a host, no user, query or fragment."""
    try:
        parts = urlsplit(address)
        host, has_port = parts.hostname, parts.port != 0
    except ValueError:
        host, has_port = None, False
    if not host or not has_port or len(address) > LONGEST or not address.isascii() or not address.isprintable() or " " in address:
        raise ValueError("must have an issuer such as https://issuer.example")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in http_hosts):
        raise ValueError("must have an issuer that begins with https:// (http:// only for one of its http_hosts)")
    if "@" in parts.netloc or parts.query or parts.fragment or "?" in address or "#" in address:
        raise ValueError("must have an issuer without user, query and fragment")


def _has(found: Any, wanted: str | int | bool) -> bool:
    if isinstance(found, list):
        return any(_is(member, wanted) for member in found)
    return _is(found, wanted)


def _is(found: Any, wanted: str | int | bool) -> bool:
    """Equal and of one type: in Python true is 1."""
    return type(found) is type(wanted) and bool(found == wanted)
