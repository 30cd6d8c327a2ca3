"""Rate limits: how many requests an owner may make, and how many an address without a valid token.

A window is fixed: it begins with the first request and lasts a second, a minute or an hour, in which the limit may be used up.
So twice the limit can come within a moment, around the end of a window; it cannot come twice.

A replica takes *leases* from the counter that all share, a fiftieth of the limit at a time, and spends them by itself. What is
taken counts at once, so that all replicas together never let more through than the limit; what a replica took and does not
spend is lost to the others until the window ends.

No library is asked. `limits` was, and of it only the reading of "600/minute" was used: its strategies ask their storage for every
hit, which is a round trip to the database for every request, and answer yes or no, which cannot say how much of a lease was
granted; its storage in memory goes by a clock that may be set back, and starts a thread for every few hits.
"""

import ipaddress
import logging
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, Self

from app.db import rate_limits as rows
from app.db.rate_limits import Window
from app.domain.errors import DomainError
from app.services.unit_of_work import UnitOfWork

SHARE = 50
WINDOWS = {"second": 1, "minute": 60, "hour": 3600}
PRUNE_FROM = 1000
V6_NETWORK = 64

log = logging.getLogger("portllm.rates")

Clock = Callable[[], float]


class Counters(Protocol):
    """What all replicas count with."""

    def hit(self, key: str, seconds: int, amount: int = 1) -> Window:
        """Counts in the present window of a key, or begins one of `seconds`."""


class Rate(NamedTuple):
    """So many requests in a window of so many seconds; `unit` is the window's name."""

    amount: int
    seconds: int
    unit: str

    @classmethod
    def parse(cls, limit: str) -> Self:
        """Reads "600/minute".

        Raises:
            ValueError: it is none.
        """
        found = _RATE.fullmatch(limit)
        if not found:
            raise ValueError("must be N/second, N/minute or N/hour, for example 600/minute, or empty for no limit")
        return cls(int(found[1]), WINDOWS[found[2]], found[2])


_RATE = re.compile(rf"([1-9][0-9]{{0,8}})/({'|'.join(WINDOWS)})")


@dataclass(frozen=True)
class RateLimits:
    """Limits as settings say them, "600/minute"; empty: none.

    Attributes:
        requests: of an owner.
        writes: of an owner, requests that may change something.
        failures: of an address, requests without a valid token.
    """

    requests: str = ""
    writes: str = ""
    failures: str = ""


@dataclass
class _Lease:
    """What this process took for one key and has not spent; it `ends` with its window, by the clock of this process.

    `is_last`: the window has no more to give.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    left: int = 0
    ends: float = -math.inf
    is_last: bool = False


class Policy:
    """One limit, and the leases of it.

    Args:
        name: what it limits, in one word.
        limit: for example "600/minute".
        counters: what replicas share; None where there is one process, which then leases whole windows from itself.
        clock: seconds that never go back.
    """

    def __init__(self, name: str, limit: str, counters: Counters | None, clock: Clock = time.monotonic) -> None:
        self.name, self._rate, self._counters, self._clock = name, Rate.parse(limit), counters, clock
        self._size = max(1, self._rate.amount // SHARE)
        self._lock, self._leases, self._prune_at = threading.Lock(), dict[str, _Lease](), PRUNE_FROM

    def charge(self, whose: str, what: str) -> None:
        """Counts a request.

        Args:
            whose: the key of the counter.
            what: who or what is limited, for the sentence.

        Raises:
            DomainError: rate.limited; what the database answers where a lease must be taken.
        """
        lease = self._lease(whose)
        with lease.lock:
            if self._clock() >= lease.ends:
                lease.left, lease.is_last = 0, False
            if not lease.left and not lease.is_last:
                self._take(whose, lease)
            if lease.left:
                lease.left -= 1
                return
            seconds = max(1, math.ceil(lease.ends - self._clock()))
        raise DomainError(
            "rate.limited", policy=self.name, what=what, limit=self._rate.amount, window=self._rate.seconds,
            unit=self._rate.unit, seconds=seconds,
        )  # fmt: skip

    def _take(self, whose: str, lease: _Lease) -> None:
        began, limit, window = self._clock(), self._rate.amount, self._rate.seconds
        if self._counters is None:
            lease.left, lease.ends, lease.is_last = limit, began + window, True
            return
        hits, seconds = self._counters.hit(f"{self.name}/{limit}/{self._rate.unit}/{whose}", window, self._size)
        lease.left = min(self._size, max(0, limit - (hits - self._size)))
        # From before it was asked: it is over here no later than there.
        lease.ends, lease.is_last = began + seconds, hits >= limit

    def _lease(self, whose: str) -> _Lease:
        with self._lock:
            if len(self._leases) >= self._prune_at:
                moment = self._clock()
                # One that somebody holds just now has not been taken yet, or is being taken anew.
                kept = {k: lease for k, lease in self._leases.items() if lease.lock.locked() or lease.ends > moment}
                self._leases, self._prune_at = kept, max(PRUNE_FROM, 2 * len(kept))
            return self._leases.setdefault(whose, _Lease())


class RateLimiter:
    """All rate limits of a process.

    Args:
        limits: the limits.
        counters: what replicas share; None where there is one process.
        clock: seconds that never go back.
    """

    def __init__(self, limits: RateLimits, counters: Counters | None = None, clock: Clock = time.monotonic) -> None:
        def policy(name: str, limit: str) -> Policy | None:
            return Policy(name, limit, counters, clock) if limit else None

        self._requests, self._writes = policy("requests", limits.requests), policy("writes", limits.writes)
        self._failures = policy("failures", limits.failures)

    def request(self, owner: str, writes: bool) -> None:
        """Counts a request of an owner; `writes`: it may change something.

        Raises:
            DomainError: rate.limited, database.unreachable, database.busy.
        """
        if self._requests:
            self._requests.charge(owner, f"requests of {owner}")
        if writes and self._writes:
            self._writes.charge(owner, f"changes by {owner}")

    def failure(self, address: str | None) -> None:
        """Counts a request without a valid token, from an address; one whose address is not known is not counted.

        Where the counters cannot be asked it lets go on: without a database nobody's guess can be right.

        Raises:
            DomainError: rate.limited.
        """
        if self._failures is None or address is None:
            return
        try:
            self._failures.charge(network(address), "requests without a valid token from your address")
        except DomainError as error:
            if error.code == "rate.limited":
                raise
            log.warning("a refused token could not be counted: %s", error.code)


def network(address: str) -> str:
    """Whom an address stands for: itself, or in IPv6 its network of 64 bits, all of which one customer has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a proxy's idea of a name
        return address[:64]
    if found.version == 4:
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found.packed, V6_NETWORK), strict=False))


def forget(uow: UnitOfWork) -> int:
    """Removes counters of windows that are over."""
    return rows.forget_ended(uow.session)
