"""Identity tokens of a real issuer, exchanged for tokens of the registry: who gets in, as what, for how long."""

import datetime as dt
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from httpx import Response

from app.db.base import now
from tests.support.issuer import AUDIENCE, CLIENT, Issuer
from tests.support.registry import Caller, Service, refused
from tests.support.token_exchange import CI, RULES, admitted, exchange, issuer, registry, ring

__all__ = ["issuer", "registry", "ring"]  # fixtures


def test_identity_token_of_a_pipeline_is_exchanged(registry: Service, issuer: Issuer) -> None:
    """Bound to the rule's owner and role, for an hour; it works until it is revoked; list and trail say whose it is."""
    token = issuer.token(**CI)
    answer = exchange(registry, token)
    made = admitted(answer)
    assert answer.headers["Cache-Control"] == "no-store"
    assert made["token"].startswith("plt_")
    assert (made["owner"], made["role"], made["issuer"], made["subject"]) == ("acme", "publisher", issuer.url, CI["sub"])
    left = dt.datetime.fromisoformat(made["expires_at"]) - now()
    assert dt.timedelta(seconds=3500) < left <= dt.timedelta(seconds=3600)
    pipeline = Caller(registry.client, made["token"])
    assert pipeline.get("/whoami").json()["owner"] == "acme"
    listed = next(t for t in registry.admin.get("/tokens").json()["items"] if t["id"] == made["id"])
    assert listed == {key: value for key, value in made.items() if key != "token"}
    line = next(json.loads(x) for x in registry.admin.get("/audit").text.splitlines() if made["id"] in x)
    assert (line["kind"], line["owner"], line["subject"], line["actor"]) == ("token.exchanged", "acme", made["id"], "acme")
    assert line["address"] == "testclient"
    assert {key: line["data"][key] for key in ("issuer", "subject", "rule", "scopes")} == {
        "issuer": issuer.url, "subject": CI["sub"], "rule": 1, "scopes": ["read", "publish"],
    }  # fmt: skip
    assert token not in registry.admin.get("/audit").text
    refused(pipeline.post("/tokens/self/rotate", {}), 409, "oidc.rotate")
    assert pipeline("DELETE", "/tokens/self").status_code == 200
    refused(pipeline.get("/whoami"), 401, "token.missing")


@pytest.mark.parametrize(
    ("claims", "given"),
    [
        (CI, ("acme", "publisher")),
        ({**CI, "groups": ["all"], "verified": True}, ("acme", "publisher")),  # the first that matches
        ({"groups": ["staff", "all"], "verified": True}, ("lab", "reader")),
        ({"groups": "all", "verified": True}, ("lab", "reader")),
        ({"sub": "grace"}, ("lab", "operator")),
        ({"groups": ["admins"], "level": 3}, ("acme", "admin")),
    ],
)
def test_first_rule_whose_claims_all_match_applies(
    registry: Service, issuer: Issuer, claims: dict[str, Any], given: tuple[str, str]
) -> None:
    """All claims of a rule, equal or among the members of a list; the first rule counts."""
    made = admitted(exchange(registry, issuer.token(**claims)))
    assert (made["owner"], made["role"]) == given


@pytest.mark.parametrize(
    "claims",
    [
        {}, {"repository": "acme/tone"}, {**CI, "ref": "refs/heads/main2"}, {**CI, "repository": "ACME/tone"},
        {"groups": ["all"], "verified": "true"}, {"groups": ["all"], "verified": 1}, {"groups": [["all"]], "verified": True},
        {"groups": "admins all", "level": 3}, {"groups": {"admins": 1}, "level": 3}, {"groups": ["admins"], "level": True},
    ],
)  # fmt: skip
def test_identity_token_without_a_rule_is_refused(registry: Service, issuer: Issuer, claims: dict[str, Any]) -> None:
    """Refused with issuer and subject, and nothing else of the token."""
    token = issuer.token(**{"sub": "mallory", "email": "m@example.com", **claims})
    problem = refused(exchange(registry, token), 403, "oidc.no_rule")
    assert problem["data"] == {"issuer": issuer.url, "subject": claims.get("sub", "mallory")}
    assert "example.com" not in json.dumps(problem)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "another"}, "another audience"),
        ({"aud": ["another", "third"]}, "another audience"),
        ({"aud": None}, "aud"),
        ({"exp": int(time.time()) - 40}, "expired"),
        ({"exp": None}, "exp"),
        ({"exp": "soon"}, ""),
        ({"exp": float("inf")}, ""),
        ({"nbf": int(time.time()) + 3600}, "not valid yet"),
        ({"iat": int(time.time()) + 3600}, "not valid yet"),
        ({"iat": None}, "iat"),
        ({"sub": None}, "sub"),
        ({"sub": ""}, "subject"),
        ({"sub": "s" * 256}, "subject"),
        ({"sub": "nul\0"}, "subject"),
        ({"iss": None}, "who signed it"),
    ],
)
def test_invalid_claims_are_refused(registry: Service, issuer: Issuer, changes: dict[str, Any], reason: str) -> None:
    """Though signed by the right key."""
    token = issuer.token(**{**CI, **changes})
    assert reason in refused(exchange(registry, token), 401, "oidc.token")["detail"]


def test_clock_skew_of_30_seconds_is_accepted(registry: Service, issuer: Issuer) -> None:
    """Clocks differ: 30 seconds are granted. Of several audiences one is enough, and that of the device login is one."""
    present = int(time.time())
    for claims in (
        {"exp": present - 10}, {"nbf": present + 20, "iat": present + 20}, {"aud": ["another", AUDIENCE]}, {"aud": CLIENT},
    ):  # fmt: skip
        admitted(exchange(registry, issuer.token(**{**CI, **claims})))


def test_lifetime_is_bounded_by_issuer_and_installation(
    registries: Callable[..., Service], registry: Service, issuer: Issuer
) -> None:
    """An hour, or what is asked for, never more than issuer and installation allow."""

    def seconds(answer: Response) -> float:
        made = admitted(answer)
        return (dt.datetime.fromisoformat(made["expires_at"]) - dt.datetime.fromisoformat(made["created_at"])).total_seconds()

    assert seconds(exchange(registry, issuer.token(**CI), lifetime=43_200)) == pytest.approx(43_200, abs=5)
    problem = refused(exchange(registry, issuer.token(**CI), lifetime=43_201), 422, "oidc.lifetime")
    assert problem["data"] == {"seconds": 43_201, "limit": 43_200}
    with registries(oidc=[issuer.setting(*RULES, max_lifetime=900)], oidc_max_lifetime_seconds=1800).running() as strict:
        assert seconds(exchange(strict, issuer.token(**CI))) == pytest.approx(900, abs=5)
        refused(exchange(strict, issuer.token(**CI), lifetime=901), 422, "oidc.lifetime")


def test_login_information_needs_no_token(registry: Service, world: Any, issuer: Issuer) -> None:
    """Where to log in; a registry without issuers says that it has none."""
    told = Caller(registry.client, None).get("/oidc").json()
    assert told == {"issuers": [{"issuer": issuer.url, "audience": AUDIENCE, "client_id": CLIENT, "scopes": ["openid"]}]}
    assert Caller(world.service.client, None).get("/oidc").json() == {"issuers": []}
    refused(exchange(world.service, issuer.token(**CI)), 404, "oidc.off")


def test_refused_exchange_is_logged_without_the_token(
    registry: Service, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """With code and issuer, never with the token, on one line whatever it says."""
    token = issuer.token(iss="https://evil.example/\nINFO all is well", **CI)
    with caplog.at_level(logging.WARNING, "portllm.identities"):
        refused(exchange(registry, token), 401, "oidc.issuer")
        refused(exchange(registry, issuer.token(sub="mallory")), 403, "oidc.no_rule")
    first, second = (record.getMessage() for record in caplog.records if record.name == "portllm.identities")
    assert "oidc.issuer" in first
    assert "\n" not in first
    assert "mallory" in second
    assert all(part not in first + second for part in token.split("."))
