"""Rate limits: leases never let more through than the limit, on one process or on many; refusals say when to come back."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from huggingface_hub.utils import parse_ratelimit_headers
from sqlalchemy import Engine

from app.db.engine import counter_engine, write_sessions
from app.db.rate_limits import SharedCounters, Window, forget_ended
from app.domain.errors import DomainError
from app.services.access.rate_limits import PRUNE_FROM, Policy, Rate, RateLimiter, RateLimits, network
from tests.support.fixtures import Models
from tests.support.registry import Caller, Service, refused, unique


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.present = 0.0

    def __call__(self) -> float:
        return self.present


class Ledger:
    """Counters that replicas share, by a clock of their own; `asked` counts how often."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.asked = clock, 0
        self.windows: dict[str, tuple[int, float]] = {}

    def hit(self, key: str, seconds: int, amount: int = 1) -> Window:
        self.asked += 1
        hits, ends = self.windows.get(key, (0, 0.0))
        if ends <= self.clock():
            hits, ends = 0, self.clock() + seconds
        self.windows[key] = hits + amount, ends
        return Window(hits + amount, ends - self.clock())


def passed(policy: Policy, times: int, whose: str = "acme") -> int:
    """How many of so many requests are let through."""
    count = 0
    for _ in range(times):
        with suppress(DomainError):
            policy.charge(whose, "requests")
            count += 1
    return count


def test_limit_holds_for_each_owner_and_window() -> None:
    """The whole limit in each window, of each owner; windows begin with their first request."""
    clock = Clock()
    policy = Policy("requests", "5/minute", None, clock)
    clock.present = 1000.0
    assert (passed(policy, 9), passed(policy, 9, "other")) == (5, 5)
    clock.present = 1059.9
    with pytest.raises(DomainError) as error:
        policy.charge("acme", "requests of acme")
    assert error.value.data == {
        "policy": "requests", "what": "requests of acme", "limit": 5, "window": 60, "unit": "minute", "seconds": 1,
    }  # fmt: skip
    clock.present = 1060.0
    assert passed(policy, 9) == 5


@pytest.mark.parametrize("limit", ["", "0/minute", "1/day", "1 / minute", "-1/hour", "1/minute/2", "9999999999/hour", "x"])
def test_invalid_rate_is_refused(limit: str) -> None:
    with pytest.raises(ValueError, match="600/minute"):
        Rate.parse(limit)


@pytest.mark.parametrize("limit", [1, 7, 49, 100, 1234])
def test_limit_holds_for_all_replicas_together(limit: int) -> None:
    """The sum over replicas is the limit, though most requests ask nobody."""
    clock = Clock()
    ledger = Ledger(clock)
    replicas = [Policy("requests", f"{limit}/hour", ledger, clock) for _ in range(3)]
    for _ in range(2):
        before = ledger.asked
        turns = itertools.cycle(replicas)
        assert sum(passed(next(turns), 1) for _ in range(2 * limit + 10)) == limit
        # Leases of a fiftieth, and each replica once more to learn that there is nothing left.
        assert ledger.asked - before <= limit / max(1, limit // 50) + len(replicas)
        clock.present += 3600


def test_lease_of_a_window_is_not_spent_in_the_next() -> None:
    """What was taken in one window is not spent in the next, whose counter knows nothing of it."""
    clock = Clock()
    ledger = Ledger(clock)
    one, two = (Policy("requests", "100/minute", ledger, clock) for _ in range(2))
    assert passed(one, 1) == 1  # of a lease of two
    clock.present = 60.0
    assert passed(two, 200) == 100
    assert passed(one, 1) == 0


def test_counters_of_past_windows_are_dropped() -> None:
    """An attacker with many addresses costs memory for one window."""
    clock = Clock()
    policy = Policy("failures", "5/second", None, clock)
    for number in range(3 * PRUNE_FROM):
        passed(policy, 1, str(number))
        clock.present += 0.01
    assert len(policy._leases) <= PRUNE_FROM


def test_lease_is_spent_once_by_many_threads() -> None:
    """A lease is spent once, however many threads of a process spend it."""
    policy = Policy("requests", "1000/hour", Ledger(Clock()), Clock())
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: passed(policy, 200), range(8))) == 1000


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)  # fmt: skip
def test_address_is_counted_by_its_network(address: str, found: str) -> None:
    assert network(address) == found


def test_unreachable_database_leaves_refusals_of_tokens_unchanged() -> None:
    """A token that is refused is refused as ever; an owner's request fails as all do then."""
    away = SharedCounters(counter_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))
    rates = RateLimiter(RateLimits("5/minute", "", "5/minute"), away)
    rates.failure("192.0.2.7")
    with pytest.raises(DomainError) as error:
        rates.request("acme", writes=False)
    assert error.value.code == "database.unreachable"


# -- on PostgreSQL


@pytest.fixture(scope="module")
def engine(migrated: Callable[[], str]) -> Iterator[Engine]:
    found = counter_engine(migrated())
    yield found
    found.dispose()


def test_concurrent_hits_get_different_numbers(engine: Engine) -> None:
    """Every hit has a number of its own: replicas that take leases at the same moment take different ones."""
    counters, key = SharedCounters(engine), unique("key")
    with ThreadPoolExecutor(8) as pool:
        hits = list(pool.map(lambda _: counters.hit(key, 60).hits, range(80)))
    assert sorted(hits) == list(range(1, 81))


def test_limit_holds_for_replicas_with_threads_on_postgresql(engine: Engine) -> None:
    """Policies of several replicas, each with threads, let the limit through and no more.

    Each replica asks as often as the limit allows: one that stopped earlier could leave a part of its last lease unspent, which
    is lost to the others.
    """
    replicas = [Policy("requests", "300/hour", SharedCounters(engine)) for _ in range(3)]
    barrier, owner = threading.Barrier(6), unique("owner")

    def many(number: int) -> int:
        barrier.wait()
        return passed(replicas[number % 3], 150, owner)

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(many, range(6))) == 300


def test_window_that_is_over_begins_anew_and_is_swept(engine: Engine) -> None:
    """By the database's clock."""
    counters, old, young = SharedCounters(engine), unique("key"), unique("key")
    assert [counters.hit(key, 60).hits for key in (old, old, young)] == [1, 2, 1]
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE rate_windows SET ends_at = now() - interval '1 s' WHERE key = %s", (old,))
    assert counters.hit(old, 60, 5).hits == 5
    with engine.connect() as connection:
        connection.exec_driver_sql("UPDATE rate_windows SET ends_at = now() - interval '1 s' WHERE key = %s", (old,))
    with write_sessions(engine)() as session:
        forget_ended(session)
        session.commit()
    with engine.connect() as connection:
        left = {row[0] for row in connection.exec_driver_sql("SELECT key FROM rate_windows")}
    assert young in left
    assert old not in left


# -- through the API


def limited(caller: Caller, times: int, method: str = "GET", path: str = "/whoami") -> list[int]:
    """Statuses of so many requests."""
    return [caller(method, path, **({} if method == "GET" else {"json": {}})).status_code for _ in range(times)]


@pytest.fixture
def service(fresh: Callable[..., Service]) -> Service:
    """An owner may make six requests an hour, of them two that change something."""
    return fresh(rate_limit="6/hour", rate_limit_writes="2/hour", rate_limit_failures="3/hour")


def test_owner_over_its_limit_gets_429_with_retry_after(service: Service) -> None:
    """429 with the limit, Retry-After, and the headers that huggingface_hub understands; another owner goes on."""
    acme, other = service.caller("acme"), service.caller("other")
    assert limited(acme, 5) == [200] * 5
    # A request that is wrong is charged as well, and once.
    assert acme.get("/patches", limit="none").status_code == 422
    answer = acme.get("/whoami")
    problem = refused(answer, 429, "rate.limited")
    assert problem["data"]["limit"] == 6
    assert 3500 < int(answer.headers["Retry-After"]) <= 3600
    info = parse_ratelimit_headers(answer.headers)
    assert info is not None
    assert (info.remaining, info.limit, info.window_seconds) == (0, 6, 3600)
    assert info.reset_in_seconds == int(answer.headers["Retry-After"])
    assert limited(other, 3) == [200] * 3
    assert acme.get("/patches", limit="none").status_code == 429
    assert service.client.get("/healthz").status_code == 200
    collectors = service.app.state.telemetry.collectors
    assert collectors.get_sample_value("portllm_refused_total", {"reason": "requests"}) == 2


def test_writes_have_a_limit_of_their_own(service: Service) -> None:
    acme = service.caller("acme")
    wrong = {"owner": "acme", "name": "tone", "family": "nope"}
    assert [acme.post("/patches", wrong).status_code for _ in range(3)] == [404, 404, 429]
    assert acme.get("/whoami").status_code == 200


def test_address_that_guesses_tokens_is_limited(service: Service) -> None:
    """Missing, unknown and expired tokens count for the address; a good one from there works."""
    nobody, wrong, acme = Caller(service.client, None), Caller(service.client, "plt_wrong"), service.caller("acme")
    assert nobody.get("/whoami").status_code == 401
    assert wrong.get("/whoami").status_code == 401
    assert nobody.post("/families", {"name": "x"}).status_code == 401
    for caller, path in ((nobody, "/whoami"), (wrong, "/whoami"), (wrong, "/jobs/x/cancel")):
        answer = caller("POST" if "cancel" in path else "GET", path)
        refused(answer, 429, "rate.limited")
        assert "acme" not in answer.text
    assert acme.get("/whoami").status_code == 200


def test_address_that_guesses_identity_tokens_is_limited(fresh: Callable[..., Service]) -> None:
    """The route that asks for no token of ours counts those that it refuses."""
    rule = {"claims": {"sub": "x"}, "owner": "acme", "role": "reader"}
    trusted = {"issuer": "https://issuer.example", "audience": "portllm", "rules": [rule]}
    nobody = Caller(fresh(rate_limit_failures="2/hour", oidc=[trusted]).client, None)
    for _ in range(2):
        assert nobody.post("/tokens/exchange", {"token": "garbage"}).status_code == 401
    refused(nobody.post("/tokens/exchange", {"token": "garbage"}), 429, "rate.limited")


def test_every_request_is_charged_once(fresh: Callable[..., Service], models: Models) -> None:
    """Also those that look their token up in several transactions, or whose answer was checked before."""
    service = fresh(rate_limit="1000000/hour")  # of which a replica takes more at once than is asked for here
    service.admin.family("llama")
    service.release("llama", "v1", models.v1)
    acme = service.caller("acme")
    acme.publish(acme.patch("acme", "tone"), models.patch)
    lease = service.runtime.rates._requests._leases["acme"]  # type: ignore[union-attr]
    for ask in (
        lambda: acme.post("/ports/check", {"patch": "acme/tone", "release": "v1"}),
        lambda: acme.post("/ports", {"patch": "acme/tone", "release": "v1"}, {"Idempotency-Key": "k"}),
        lambda: acme.get("/ports", cursor="x"), lambda: acme.get("/events"), lambda: acme.get("/audit"),
    ):  # fmt: skip
        before = lease.left
        ask()
        assert before - lease.left == 1
