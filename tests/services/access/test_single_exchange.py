"""An identity token is exchanged once, and what it was exchanged for makes nothing that lasts longer than itself."""

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from httpx import Response
from jwt.utils import base64url_decode, base64url_encode

from app.db.base import now
from app.domain.errors import DomainError
from app.services.access import token_exchange
from app.services.unit_of_work import run_with_retry
from tests.support.issuer import Issuer, rule
from tests.support.registry import Caller, Service, refused, unique
from tests.support.token_exchange import CI, RULES, admitted, exchange, issuer, registry, ring

__all__ = ["issuer", "registry", "ring"]  # fixtures


def later(service: Service, **passed: float) -> None:
    """As if all exchanges had been so long ago."""
    for mark, used_at, ends_at in service.rows("SELECT mark, used_at, ends_at FROM used_identities"):
        for column, value in (("used_at", used_at), ("ends_at", ends_at)):
            at = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
            moved = at.replace(tzinfo=at.tzinfo or dt.UTC) - dt.timedelta(**passed)
            service.execute(f"UPDATE used_identities SET {column} = :moment WHERE mark = :mark", moment=moved, mark=mark)


@pytest.fixture(autouse=True)
def unused(registry: Service) -> Iterator[None]:
    """No test meets what another used."""
    yield
    registry.execute("DELETE FROM used_identities")


@pytest.mark.parametrize("named", [{}, {"jti": "one"}])
def test_identity_token_is_exchanged_once(registry: Service, issuer: Issuer, named: dict[str, str]) -> None:
    """Also one that its issuer gave no `jti`. A lost answer may be asked for again for a minute."""
    token = issuer.token(**CI, **named)
    first, again = admitted(exchange(registry, token)), admitted(exchange(registry, token))
    assert first["token"] != again["token"]
    later(registry, seconds=61)
    problem = refused(exchange(registry, token), 401, "oidc.used")
    assert dt.datetime.fromisoformat(problem["data"]["at"]) < now() - dt.timedelta(seconds=60)
    assert Caller(registry.client, first["token"]).get("/whoami").status_code == 200
    admitted(exchange(registry, issuer.token(**CI, **({"jti": "two"} if named else {"nonce": "n"}))))


def test_repeat_from_another_address_is_refused_at_once(registry: Service, issuer: Issuer) -> None:
    """At once: somebody else has it."""
    token = issuer.token(**CI)
    admitted(exchange(registry, token))
    registry.execute("UPDATE used_identities SET address = '192.0.2.7'")
    refused(exchange(registry, token), 401, "oidc.used")
    registry.execute("UPDATE used_identities SET address = NULL")
    refused(exchange(registry, token), 401, "oidc.used")


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"jti": "a"}, {"jti": "a", "nonce": "other"}, True),  # whatever else it says
        ({"jti": "a"}, {"jti": "b"}, False),
        ({"jti": ""}, {"jti": "", "nonce": "other"}, False),  # none at all: by what is signed
        ({}, {"nonce": "other"}, False),
    ],
)
def test_tokens_are_equal_by_jti_or_signed_content(
    registry: Service, issuer: Issuer, first: dict[str, str], second: dict[str, str], same: bool
) -> None:
    present = int(time.time())
    admitted(exchange(registry, issuer.token(**CI, iat=present, **first)))
    later(registry, minutes=2)
    answer = exchange(registry, issuer.token(**CI, iat=present, **second))
    assert answer.status_code == (401 if same else 201), answer.text


def test_mirrored_elliptic_signature_counts_as_the_same_token(registry: Service, issuer: Issuer) -> None:
    """Of an elliptic signature (r, s) whoever sees it can make (r, -s), which is valid as well: the token is still the same."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
    token = issuer.token(**CI)
    signed, _, signature = token.rpartition(".")
    raw = base64url_decode(signature)
    twin = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    twinned = f"{signed}.{base64url_encode(twin).decode()}"
    assert twinned != token
    admitted(exchange(registry, token))
    later(registry, minutes=2)
    refused(exchange(registry, twinned), 401, "oidc.used")


def test_refused_exchange_does_not_use_up_the_token(registry: Service, issuer: Issuer) -> None:
    """Nothing is remembered of a token that nobody's rule admits, or whose request asks for too much."""
    refused(exchange(registry, issuer.token(sub="mallory")), 403, "oidc.no_rule")
    token = issuer.token(**CI)
    refused(exchange(registry, token, lifetime=43_201), 422, "oidc.lifetime")
    assert registry.rows("SELECT count(*) FROM used_identities") == [(0,)]
    admitted(exchange(registry, token))


def test_concurrent_exchanges_of_one_token_give_one(registry: Service, issuer: Issuer) -> None:
    """From addresses of their own, as through several replicas: one of them gets a token."""
    token, barrier = issuer.token(**CI), threading.Barrier(6)
    known = registry.runtime.identities
    who = asyncio.run(known.verified(token))  # once: what is raced for is the table

    def one(number: int) -> str:
        barrier.wait()
        try:
            run_with_retry(
                registry.runtime.write, lambda uow: token_exchange.exchange(uow, known, who, None, f"192.0.2.{number}", None)
            )
        except DomainError as error:
            return error.code
        return "made"

    with ThreadPoolExecutor(6) as pool:
        said = sorted(pool.map(one, range(6)))
    assert said == ["made"] + ["oidc.used"] * 5


def test_issuer_without_single_use_allows_repeats(registries: Callable[..., Service], issuer: Issuer) -> None:
    """Where an operator says so."""
    token = issuer.token(**CI)
    with registries(oidc=[issuer.setting(*RULES, single_use=False)]).running() as service:
        admitted(exchange(service, token))
        later(service, minutes=2)
        admitted(exchange(service, token))


def test_used_token_is_remembered_until_it_expires(registry: Service, issuer: Issuer) -> None:
    """Not before: it is then refused for its age. An hour is granted to clocks that differ."""
    admitted(exchange(registry, issuer.token(**CI)))
    for passed, left in ((50.0, 1), (20.0, 0)):
        later(registry, minutes=passed)
        with registry.runtime.write() as uow:
            assert token_exchange.forget(uow) == 1 - left
        assert registry.rows("SELECT count(*) FROM used_identities") == [(left,)]


def test_identity_token_of_long_life_is_refused(registry: Service, issuer: Issuer) -> None:
    """They would have to be remembered as long."""
    present = int(time.time())
    day = {"iat": present, "exp": present + 24 * 3600}
    admitted(exchange(registry, issuer.token(**CI, **day)))
    longer = exchange(registry, issuer.token(**CI, **day | {"exp": day["exp"] + 1}))
    assert "24 hours" in refused(longer, 401, "oidc.token")["detail"]
    for long in (10**12, 10**30, -1):
        refused(exchange(registry, issuer.token(**CI, iat=-(10**15), exp=long)), 401, "oidc.token")


def test_address_that_replays_tokens_is_limited(registries: Callable[..., Service], issuer: Issuer) -> None:
    """As other refused tokens are, by address."""
    with registries(oidc=[issuer.setting(*RULES)], rate_limit_failures="2/hour").running() as service:
        token = issuer.token(**CI)
        admitted(exchange(service, token))
        later(service, minutes=2)
        assert [exchange(service, token).status_code for _ in range(3)] == [401, 401, 429]


# -- what an exchanged token makes


@pytest.fixture
def operator(registry: Service, issuer: Issuer) -> Caller:
    """An operator of lab's, for a quarter of an hour, by its issuer's word."""
    return Caller(registry.client, admitted(exchange(registry, issuer.token(sub="grace"), lifetime=900))["token"])


def ends(answer: Response) -> dt.datetime:
    assert answer.status_code == 201, answer.text
    return dt.datetime.fromisoformat(answer.json()["expires_at"])


def test_token_made_by_an_exchanged_token_expires_with_it(registry: Service, operator: Caller) -> None:
    """Also what that makes in its turn, and nothing of it can be renewed: an hour's word must not become a year's."""
    held = next(token for token in operator.get("/tokens").json()["items"] if token["subject"] == "grace")
    mine = dt.datetime.fromisoformat(held["expires_at"])
    made = operator.post("/tokens", {"owner": "lab", "role": "operator"})
    assert ends(made) <= mine
    assert (made.json()["issuer"], made.json()["subject"]) == (registry.settings.oidc[0].issuer, "grace")
    child = Caller(registry.client, made.json()["token"])
    assert ends(child.post("/tokens", {"owner": "lab", "role": "reader"})) <= mine
    assert ends(child.post("/tokens", {"owner": "lab", "role": "reader", "expires_in": 60})) <= mine
    for caller in (operator, child):
        problem = refused(caller.post("/tokens", {"owner": "lab", "role": "reader", "expires_in": 7200}), 403, "token.outlives")
        assert dt.datetime.fromisoformat(problem["data"]["at"]) <= mine
        refused(caller.post("/tokens/self/rotate", {}), 409, "oidc.rotate")


def test_exchanged_token_cannot_rotate_a_token_that_lasts_longer(registry: Service, operator: Caller) -> None:
    """Rotating a token shows its successor's secret: an operator by an issuer's word would hold one that never ends."""
    lasting, brief = (
        registry.admin.post("/tokens", {"owner": "lab", "role": "reader", "name": unique("t"), **life}).json()
        for life in ({}, {"expires_in": 300})
    )
    refused(operator.post(f"/tokens/{lasting['id']}/rotate", {}), 403, "token.outlives")
    assert Caller(registry.client, lasting["token"]).get("/whoami").status_code == 200
    rotated = operator.post(f"/tokens/{brief['id']}/rotate", {})
    assert ends(rotated) <= now() + dt.timedelta(seconds=300)
    assert rotated.json()["subject"] == "grace"
    assert operator("DELETE", f"/tokens/{lasting['id']}").status_code == 200


def test_exchanged_admin_token_is_bound_to_its_expiry(registries: Callable[..., Service], issuer: Issuer) -> None:
    """Is bound alike; an admin with a token of the registry's own is not."""
    with registries(oidc=[issuer.setting(rule("acme", "admin", sub="ada"))]).running() as service:
        admin = Caller(service.client, admitted(exchange(service, issuer.token()))["token"])
        wish: dict[str, Any] = {"owner": "lab", "role": "admin", "expires_in": 30 * 86_400}
        refused(admin.post("/tokens", wish), 403, "token.outlives")
        assert ends(service.admin.post("/tokens", wish)) > now() + dt.timedelta(days=29)
