"""Exchange: a token of this registry for the identity token of an issuer that the installation trusts.

The token given out lives for a short time and is one like all others: it can be revoked, and stock clients can use it.
"""

import asyncio
import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from app.clients import identity
from app.clients.identity import Keys, Unverified
from app.db import token_exchange as rows
from app.db.base import clock, now
from app.db.token_exchange import UsedIdentity
from app.db.tokens import Token
from app.domain.errors import DomainError
from app.domain.issuers import Identity, Issuer
from app.domain.principal import Principal, scopes_of
from app.services.access import tokens
from app.services.background import in_thread
from app.services.unit_of_work import UnitOfWork

KEYS_SECONDS = 600.0
# An unknown key may be a new one. Whoever sends tokens with keys that never were makes us ask no more often than this.
UNKNOWN_KEY_SECONDS = 30.0
# An issuer that did not answer is not asked at once by all who wait.
FAILURE_SECONDS = 5.0
DEFAULT_SECONDS = 3600
# An answer may be lost, and its client asks again: as long as nobody else can be it, that is no replay.
REPEAT = dt.timedelta(seconds=60)

log = logging.getLogger("portllm.identities")

Fetch = Callable[[Issuer], Keys]
Clock = Callable[[], float]


class Keyring:
    """The keys of one issuer. One thread at most asks for them; those who wait for it hold no thread and no lock.

    Args:
        fetch: asks the issuer; must end in time.
        clock: seconds that only grow.
    """

    def __init__(self, issuer: Issuer, fetch: Fetch, clock: Clock) -> None:
        self.issuer, self._fetch, self._clock = issuer, fetch, clock
        self._lock = threading.Lock()
        self._keys: Keys | None = None
        self._keys_at = 0.0
        self._asked: Future[Keys] | None = None
        self._asked_at = 0.0
        self._failure: BaseException | None = None

    async def keys(self, said: Unverified) -> Keys:
        """Keys that are good enough for a token: not old, and asked for again where they lack the token's.

        Raises:
            DomainError: oidc.unavailable; oidc.token.
        """
        known = self._known(said)
        return known if isinstance(known, Keys) else await asyncio.wrap_future(known)

    def _known(self, said: Unverified) -> Keys | Future[Keys]:
        """The keys, or who is asked for them just now."""
        with self._lock:
            self._take_over()
            present = self._clock()
            fresh = self._keys if present - self._keys_at <= KEYS_SECONDS else None
            if fresh and fresh.find(said) is not None:
                return fresh  # also while others wait for a key that they name
            if self._asked is None:
                if fresh and present - self._asked_at <= UNKNOWN_KEY_SECONDS:
                    return fresh
                if self._failure and present - self._asked_at <= FAILURE_SECONDS:
                    raise self._failure.with_traceback(None)  # else it would grow with everybody who is told
                self._asked_at = present
                self._asked = in_thread(lambda: self._fetch(self.issuer))
            return self._asked

    def _take_over(self) -> None:
        """What an answer brought; one that failed leaves the keys that are there."""
        if self._asked is None or not self._asked.done():
            return
        self._failure = self._asked.exception()
        if self._failure is None:
            self._keys, self._keys_at = self._asked.result(), self._asked_at
        self._asked = None


class Identities:
    """Whom the issuers of an installation vouch for.

    Args:
        issuers: those that it trusts.
        max_lifetime: seconds that a token given out is valid at most.
        fetch, clock: see `Keyring`.
    """

    def __init__(
        self, issuers: Sequence[Issuer], max_lifetime: int, fetch: Fetch = identity.fetch_keys, clock: Clock = time.monotonic
    ) -> None:
        self.issuers, self._max_lifetime = tuple(issuers), max_lifetime
        self._rings = {issuer.issuer: Keyring(issuer, fetch, clock) for issuer in issuers}

    async def verified(self, token: str) -> Identity:
        """Whom a token is about, once its issuer's keys say so; every refusal is in the log, the token is not.

        Raises:
            DomainError: oidc.off; oidc.token; oidc.issuer; oidc.unavailable.
        """
        if not self._rings:
            raise DomainError("oidc.off")
        said: Unverified | None = None
        try:
            said = identity.read(token)
            ring = self._rings.get(said.issuer)
            if ring is None:
                raise DomainError("oidc.issuer", issuer=said.issuer[:200])
            keys = await ring.keys(said)
            return await asyncio.to_thread(_verify, token, said, ring.issuer, keys)
        except DomainError as error:
            log.warning("an identity token was refused: %s (%s), issuer %r", error.code, error.detail, said and said.issuer[:200])
            raise

    def seconds(self, issuer: Issuer, wanted: int | None) -> int:
        """How long a token for an issuer's word is valid: an hour, or what is wanted.

        Raises:
            DomainError: oidc.lifetime, for more than is given.
        """
        limit = min(self._max_lifetime, issuer.max_lifetime or self._max_lifetime)
        if wanted is not None and wanted > limit:
            raise DomainError("oidc.lifetime", seconds=wanted, limit=limit)
        return wanted or min(DEFAULT_SECONDS, limit)


def exchange(
    uow: UnitOfWork, identities: Identities, who: Identity, lifetime: int | None, address: str | None, request: str | None
) -> tuple[Token, str]:
    """Makes a token for a verified identity, by the first rule that admits it; returns it with its secret.

    Args:
        lifetime: seconds from now; None for the default.
        address, request: for the audit trail, see `Principal`.

    Raises:
        CollisionError: somebody else exchanges the same token at this moment.
        DomainError: oidc.no_rule; oidc.lifetime; oidc.used.
    """
    found = who.issuer.rule_for(who.claims)
    if found is None:
        log.warning("an identity token was refused: oidc.no_rule, issuer %r, subject %r", who.issuer.issuer, who.subject)
        raise DomainError("oidc.no_rule", issuer=who.issuer.issuer, subject=who.subject)
    number, rule = found
    end = now() + dt.timedelta(seconds=identities.seconds(who.issuer, lifetime))
    if who.issuer.single_use:
        _use(uow, who, address)
    # Nobody's token did it: the trail names the issuer and its subject in the event.
    principal = Principal(rule.owner, frozenset(scopes_of(rule.role)), "oidc", address, request)
    return tokens.issue_for(uow, principal, end, tokens.TokenOrigin(who.issuer.issuer, who.subject, number))


def _use(uow: UnitOfWork, who: Identity, address: str | None) -> None:
    """Remembers that a token was exchanged. It is admitted again for a minute, from the same address.

    So does PyPI for its trusted publishers, without the minute: it keeps every `jti` until the token expires, and refuses it.
    """
    used, present = rows.find(uow.session, who.mark), clock(uow.session)
    if used is None:
        uow.add(UsedIdentity(mark=who.mark, used_at=present, address=address, ends_at=who.ends_at))
    elif address is None or used.address != address or present - used.used_at > REPEAT:
        log.warning("an identity token was refused: oidc.used, issuer %r, subject %r", who.issuer.issuer, who.subject)
        raise DomainError("oidc.used", at=used.used_at.isoformat(timespec="seconds"))


def forget(uow: UnitOfWork) -> int:
    """Forgets tokens that have expired since they were exchanged."""
    return rows.forget_ended(uow.session)


def _verify(token: str, said: Unverified, issuer: Issuer, keys: Keys) -> Identity:
    key = keys.find(said)
    if key is None:
        raise identity.refused("its issuer does not know the key that it names")
    return identity.verify(token, said, issuer, key)
