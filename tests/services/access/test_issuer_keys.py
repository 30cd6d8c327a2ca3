"""Signatures of identity tokens, and the keys of their issuer: what is believed, and what an issuer in trouble costs."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from httpx import Response

from app.clients import identity
from tests.support.issuer import RSA, Issuer, issuing
from tests.support.registry import Caller, Service, refused
from tests.support.sites import http, site
from tests.support.token_exchange import CI, RULES, Clock, admitted, exchange, issuer, registry, ring

__all__ = ["issuer", "registry", "ring"]  # fixtures


def encoded(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def by_hand(header: dict[str, Any], claims: dict[str, Any], secret: bytes | None) -> str:
    """A token that no library would make."""
    signed = f"{encoded(header)}.{encoded(claims)}"
    mark = hmac.new(secret, signed.encode(), hashlib.sha256).digest() if secret else b""
    return f"{signed}.{base64.urlsafe_b64encode(mark).rstrip(b'=').decode()}"


def test_token_without_a_valid_signature_is_refused(registry: Service, issuer: Issuer) -> None:
    """No algorithm, the public key as a shared secret, another issuer's key under a known name, a changed token, extensions."""
    issuer.rotate("rsa", "RS256")
    public = RSA.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    jwk = json.dumps(issuer.jwks[0]).encode()
    claims, good = issuer.claims(**CI), issuer.token(**CI)
    admitted(exchange(registry, good))
    with issuing() as stranger:
        stranger.rotate("rsa", "PS256")
        stranger.add_key("rsa", "ES256")
        foreign = jwt.encode(claims, stranger.keys["rsa"][1], "ES256", {"kid": "rsa"})
        theirs = stranger.token(**CI)
    header, payload, signature = good.split(".")
    bad = [
        by_hand({"alg": "none", "kid": "rsa"}, claims, None), by_hand({"alg": "None"}, claims, None),
        *(by_hand({"alg": "HS256", "kid": "rsa"}, claims, secret) for secret in (pem, pem.strip(), jwk)),
        foreign,
        jwt.encode(claims, RSA, "RS384", {"kid": "rsa"})[:-4] + "AAAA",
        f"{header}.{encoded({**claims, 'sub': 'grace'})}.{signature}",
        f"{header}.{payload}.", f"{header}.{payload}",
        issuer.token(headers={"crit": ["exp"]}, **CI), issuer.token(headers={"crit": []}, **CI),
        f"{encoded({'alg': 'PS256', 'kid': 'rsa'})}.{payload}.{signature}",
    ]  # fmt: skip
    for token in bad:
        refused(exchange(registry, token), 401, "oidc.token")
    told = refused(exchange(registry, theirs), 401, "oidc.issuer")
    assert told["data"] == {"issuer": stranger.url}
    assert stranger.asked == [], "nobody is asked whom the registry does not trust"


def test_text_that_is_no_token_is_refused(registry: Service, issuer: Issuer) -> None:
    """Whatever is sent is refused as a token, and never an error of ours."""
    deep = "[" * 5000
    huge = issuer.token(**CI, padding="x" * 16_000)
    assert "longer" in refused(exchange(registry, huge), 401, "oidc.token")["detail"]
    head = encoded({"alg": "ES256", "kid": "first"})
    raw = base64.urlsafe_b64encode
    for token in (
        "x", "a.b.c", "..", "plt_x", "é.ü.ö", f"{head}.{encoded([])}.", f"{head}.{encoded({'iss': 1})}.AAAA",
        f"{head}.{encoded({'iss': [issuer.url]})}.AAAA", f"{raw(deep.encode()).decode()}.{head}.AAAA",
        f"{head}.{raw(deep.encode()).decode()}.AAAA", f"{head}.{raw(b'9' * 6000).decode()}.AAAA",
        f"{encoded({'alg': 5})}.{encoded({'iss': issuer.url})}.AAAA",
        f"{encoded({'alg': 'ES256', 'kid': 7})}.{encoded({'iss': issuer.url})}.AAAA",
    ):  # fmt: skip
        refused(exchange(registry, token), 401, "oidc.token")
    for body in ({}, {"token": ""}, {"token": 5}, {"token": "x", "lifetime": 5}, {"token": "x", "more": 1}):
        refused(Caller(registry.client, None).post("/tokens/exchange", body), 422, "request.invalid")


def test_unknown_key_id_fetches_keys_at_most_twice_a_minute(registry: Service, issuer: Issuer, ring: Clock) -> None:
    """Kept for ten minutes; a key that is not known makes us ask again, but no more than twice a minute."""
    issuer.rotate("one")
    issuer.asked.clear()
    old = issuer.token(**CI)
    for _ in range(3):
        admitted(exchange(registry, old))
    assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]
    issuer.rotate("two")
    new = issuer.token(**CI)
    for _ in range(3):
        assert "does not know the key" in refused(exchange(registry, new), 401, "oidc.token")["detail"]
    assert len(issuer.asked) == 2
    admitted(exchange(registry, old))
    ring.seconds += 31
    admitted(exchange(registry, new))
    refused(exchange(registry, old), 401, "oidc.token")
    assert len(issuer.asked) == 4
    unknown = issuer.token(headers={"kid": "never"}, **CI)
    for _ in range(5):
        ring.seconds += 10
        refused(exchange(registry, unknown), 401, "oidc.token")
    assert len(issuer.asked) == 6
    ring.seconds += 601
    admitted(exchange(registry, new))
    assert len(issuer.asked) == 8


@pytest.mark.parametrize("algorithm", ["RS256", "PS512", "ES256", "EdDSA"])
def test_key_is_chosen_by_id_and_use(registry: Service, issuer: Issuer, ring: Clock, algorithm: str) -> None:
    """Of several keys the token names one; the only one need not be named; keys for other uses are none."""
    issuer.rotate("here", algorithm)
    admitted(exchange(registry, issuer.token(**CI)))
    unnamed = issuer.token(headers={"kid": None}, **CI)
    issuer.jwks.insert(0, {"kty": "oct", "kid": "oct", "k": "c2VjcmV0"})
    issuer.add_key("enc", use="enc")
    ring.seconds += 601
    admitted(exchange(registry, unnamed))
    refused(exchange(registry, issuer.token("enc", **CI)), 401, "oidc.token")
    issuer.add_key("other")
    ring.seconds += 601
    assert "which of its issuer's keys" in refused(exchange(registry, unnamed), 401, "oidc.token")["detail"]
    admitted(exchange(registry, issuer.token("here", **CI)))
    issuer.rotate("here", algorithm)
    issuer.jwks[0]["alg"] = "RS512"
    ring.seconds += 601
    assert "algorithm" in refused(exchange(registry, issuer.token(**CI)), 401, "oidc.token")["detail"]


def test_token_signed_by_another_algorithm_is_refused(registries: Callable[..., Service], issuer: Issuer) -> None:
    issuer.rotate("here", "RS256")
    with registries(oidc=[issuer.setting(*RULES, algorithms=["ES256"])]).running() as service:
        assert "not trusted with" in refused(exchange(service, issuer.token(**CI)), 401, "oidc.token")["detail"]


ABOUT, KEYS = "/.well-known/openid-configuration", "/keys"


@pytest.mark.parametrize(
    ("path", "answer", "reason"),
    [
        (ABOUT, (200, {"issuer": "https://other.example", "jwks_uri": "{url}/keys"}, {}), "another issuer's"),
        (ABOUT, (200, {"issuer": "{url}/", "jwks_uri": "{url}/keys"}, {}), "another issuer's"),
        (ABOUT, (200, {"issuer": "{url}"}, {}), "where its keys are"),
        (ABOUT, (200, {"issuer": "{url}", "jwks_uri": "http://169.254.169.254/keys"}, {}), "not asked"),
        (ABOUT, (200, {"issuer": "{url}", "jwks_uri": "file:///etc/passwd"}, {}), "not asked"),
        (ABOUT, (200, {"issuer": "{url}", "jwks_uri": "https://127.0.0.2/keys"}, {}), "not asked"),
        (ABOUT, (302, b"", {"Location": "{url}/keys"}), "redirect"),
        (ABOUT, (500, {}, {}), "answered 500"),
        (ABOUT, (200, b"<html>", {}), "no JSON object"),
        (ABOUT, (200, b"[" * 10_000, {}), "no JSON object"),
        (KEYS, (200, [], {}), "no JSON object"),
        (KEYS, (200, {"keys": {}}, {}), "lists no keys"),
        (KEYS, (302, b"", {"Location": "http://127.0.0.2:1/keys"}), "redirect"),
        (KEYS, (200, b" " * 300_000, {}), "more than"),
    ],
)  # fmt: skip
def test_invalid_discovery_document_or_keys_are_refused(
    registry: Service, issuer: Issuer, ring: Clock, path: str, answer: tuple[int, Any, dict[str, str]], reason: str
) -> None:
    """503 with the reason, and nothing is believed; once it says what it should, its tokens are good."""
    status, body, headers = answer
    filled = body if isinstance(body, bytes) else json.loads(json.dumps(body).replace("{url}", issuer.url))
    issuer.answers[path] = (status, filled, {name: value.replace("{url}", issuer.url) for name, value in headers.items()})
    try:
        failed = exchange(registry, issuer.token(**CI))
    finally:
        issuer.answers.clear()
    assert reason in refused(failed, 503, "oidc.unavailable")["detail"]
    assert failed.headers["Retry-After"]
    refused(exchange(registry, issuer.token(**CI)), 503, "oidc.unavailable")
    ring.seconds += 6
    admitted(exchange(registry, issuer.token(**CI)))


def test_unreadable_keys_leave_the_others_usable(registry: Service, issuer: Issuer, ring: Clock) -> None:
    """One that cannot be read takes nothing from the others, and is nobody's error."""
    issuer.rotate("good")
    issuer.jwks[:0] = [
        "text", None, {"kid": "none"}, {"kty": "RSA", "kid": "rsa"}, {"kty": "EC", "crv": "P-0", "x": "A", "y": "A", "kid": "ec"},
        {"kty": "RSA", "kid": "tiny", "n": "qw", "e": "AQAB"}, {"kty": ["RSA"], "kid": "list"},
        {"kty": "RSA", "n": 5, "e": {}, "kid": "numbers"},
    ]  # fmt: skip
    admitted(exchange(registry, issuer.token(**CI)))
    for kid in ("rsa", "ec", "tiny", "numbers"):
        for algorithm in ("ES256", "RS256"):
            token = by_hand({"alg": algorithm, "kid": kid}, issuer.claims(**CI), b"x")
            refused(exchange(registry, token), 401, "oidc.token")


def test_redirect_of_the_keys_into_a_private_network_is_not_followed(registry: Service, issuer: Issuer, ring: Clock) -> None:
    with site(http(json.dumps({"keys": issuer.jwks}).encode()), host="127.0.0.2") as inner:
        issuer.answers[KEYS] = (307, b"", {"Location": f"http://127.0.0.2:{inner.port}/keys"})
        try:
            refused(exchange(registry, issuer.token(**CI)), 503, "oidc.unavailable")
        finally:
            issuer.answers.clear()
    assert inner.requests == []


def test_slow_issuer_is_asked_once_and_delays_no_other_request(registry: Service, issuer: Issuer, patient: None) -> None:
    """More requests wait for it than there are threads: others are answered, and it is asked once for all of them."""
    token = issuer.token(**CI)
    issuer.open.clear()
    answers: list[Response] = []
    waiting = [threading.Thread(target=lambda: answers.append(exchange(registry, token))) for _ in range(60)]
    try:
        for thread in waiting:
            thread.start()
        deadline = time.monotonic() + 30
        while not issuer.asked and time.monotonic() < deadline:
            time.sleep(0.01)
        assert registry.admin.get("/whoami").status_code == 200
        assert not answers
    finally:
        issuer.open.set()
        for thread in waiting:
            thread.join(30)
    assert [answer.status_code for answer in answers] == [201] * 60
    assert issuer.asked == [ABOUT, KEYS]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An issuer may take as long as a test wants."""
    monkeypatch.setattr(identity, "REACH", replace(identity.REACH, read_seconds=60.0, total_seconds=60.0))


def test_unreachable_issuer_gives_503_within_seconds(registries: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    """503 within seconds: where nothing listens at once, where nothing answers when the time is over."""
    with issuing() as gone:
        token, setting = gone.token(**CI), gone.setting(*RULES)
    with registries(oidc=[setting]).running() as service:
        began = time.monotonic()
        assert "takes no connection" in refused(exchange(service, token), 503, "oidc.unavailable")["detail"]
        assert time.monotonic() - began < 9
    monkeypatch.setattr(identity, "REACH", replace(identity.REACH, total_seconds=0.4))
    with issuing() as dead, registries(oidc=[dead.setting(*RULES)]).running() as service:
        dead.open.clear()
        assert "did not answer within" in refused(exchange(service, dead.token(**CI)), 503, "oidc.unavailable")["detail"]
        dead.open.set()


def test_failed_fetch_of_keys_leaves_known_keys_usable(registry: Service, issuer: Issuer, ring: Clock) -> None:
    """A key that nobody knows makes us ask; that the issuer does not answer then is not the others' trouble."""
    issuer.rotate("known")
    admitted(exchange(registry, issuer.token(**CI)))
    ring.seconds += 31
    issuer.answers[KEYS] = (500, {}, {})
    try:
        refused(exchange(registry, issuer.token(headers={"kid": "new"}, **CI)), 503, "oidc.unavailable")
        admitted(exchange(registry, issuer.token(**CI)))
    finally:
        issuer.answers.clear()
