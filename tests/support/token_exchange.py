"""A registry that trusts a real issuer, and exchanges with it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from httpx import Response

from app.services.access import token_exchange
from tests.support.issuer import Issuer, issuing, rule
from tests.support.registry import Caller, Service

RULES = (
    rule(repository="acme/tone", ref="refs/heads/main"),
    rule("lab", "reader", groups="all", verified=True),
    rule("lab", "operator", sub="grace"),
    rule(role="admin", groups="admins", level=3),
)
CI = {"repository": "acme/tone", "ref": "refs/heads/main", "sub": "repo:acme/tone"}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as running:
        yield running


@pytest.fixture(scope="module")
def registry(registries: Callable[..., Service], issuer: Issuer) -> Iterator[Service]:
    """A registry that trusts the issuer by RULES."""
    with registries(oidc=[issuer.setting(*RULES)]).running() as service:
        yield service


@pytest.fixture(autouse=True)
def ring(registry: Service, issuer: Issuer) -> Iterator["Clock"]:
    """Every test finds the issuer with a new key, the registry without any, and a clock that it may turn."""
    clock = Clock()
    issuer.rotate("first")
    issuer.answers.clear()
    issuer.asked.clear()
    settings = registry.settings
    before = registry.runtime.identities
    registry.runtime.identities = token_exchange.Identities(settings.oidc, settings.oidc_max_lifetime_seconds, clock=clock)
    yield clock
    registry.runtime.identities = before


class Clock:
    """Seconds, as many as a test says."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def exchange(service: Service, token: str, **wish: Any) -> Response:
    """By somebody who has no token."""
    return Caller(service.client, None).post("/tokens/exchange", {"token": token, **wish})


def admitted(answer: Response) -> dict[str, Any]:
    assert answer.status_code == 201, answer.text
    return dict(answer.json())
