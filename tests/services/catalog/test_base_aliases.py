"""What others call our bases: who may say it, who finds it, and what it then means."""

from collections.abc import Callable, Iterator

import pytest

from app.domain.principal import Principal
from app.services.catalog import base_aliases
from tests.support.fixtures import Models
from tests.support.registry import Caller, Service, refused, unique

UPSTREAM = "meta-llama/Meta-Llama-3-8B"


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    """Family llama with v1 and v2, seen by everybody; family secret with v1, seen by admins; family empty."""
    with registries().running() as started:
        started.admin.family("llama")
        started.admin.family("empty")
        assert started.admin.post("/families", {"name": "secret"}).status_code == 201
        for family, name in (("llama", "v1"), ("llama", "v2"), ("secret", "v1")):
            assert started.release(family, name, models.v1 if name == "v1" else models.v2)["state"] == "ready"
        yield started


@pytest.fixture
def acme(service: Service) -> Caller:
    return service.caller("acme")


def said(service: Service, name: str | None, revision: str | None = None, *scopes: str) -> str | None:
    """What a name means to acme, or with scopes of its own: "family/release", "family/" or None."""
    asking = Principal("acme", frozenset(scopes or ("read", "publish")), "tok")
    with service.runtime.read() as uow:
        found = base_aliases.find(uow, asking, name, revision)
        return f"{found.family.name}/{found.release.name if found.release else ''}" if found else None


def name(service: Service, family: str, called: str, **more: str) -> dict[str, str]:
    answer = service.admin.post(f"/families/{family}/aliases", {"name": called, **more})
    assert answer.status_code in (200, 201), answer.text
    return dict(answer.json())


def test_base_alias_names_a_family_or_a_release(service: Service) -> None:
    """In upper or lower case, as hubs take it; one revision can mean another release than all others."""
    name(service, "llama", UPSTREAM, release="v1")
    name(service, "llama", UPSTREAM, revision="5f0b02c7", release="v2")
    name(service, "llama", "unsloth/llama-3-8b-bnb-4bit")
    assert said(service, UPSTREAM) == said(service, UPSTREAM.lower(), "main") == "llama/v1"
    assert said(service, UPSTREAM, "5f0b02c7") == "llama/v2"
    assert said(service, UPSTREAM, "5F0B02C7") == "llama/v1"
    assert said(service, "unsloth/llama-3-8b-bnb-4bit") == "llama/"  # of two releases, nothing tells which
    for nothing in ("meta-llama/other", "", None, "x" * 5000, "base/", "base/nothing", f"{UPSTREAM}@5f0b02c7"):
        assert said(service, nothing) is None


def test_own_base_repository_names_its_family(service: Service) -> None:
    """base/FAMILY is a family here, and its revision a release; without one, only where no other release can be meant."""
    assert said(service, "base/llama", "v2") == "llama/v2"
    assert said(service, "base/llama") == said(service, "base/llama", "main") == said(service, "base/llama", "v9") == "llama/"
    assert said(service, "base/empty") == "empty/"
    assert said(service, "base/secret", None, "admin") == "secret/v1"
    service.admin.post("/families/secret/releases/v1/yank", {"reason": "test"})
    assert said(service, "base/secret", None, "admin") == said(service, "base/secret", "v1", "admin") == "secret/"


def test_base_alias_of_a_hidden_family_is_unknown(service: Service, acme: Caller) -> None:
    """Neither its names nor what they mean."""
    hidden = unique("org/secret")
    name(service, "secret", hidden, release="v1")
    assert said(service, hidden, None, "admin") == "secret/v1"
    assert said(service, hidden) is None
    refused(acme.get("/families/secret/aliases"), 404, "family.unknown")
    shown = acme.get("/families/llama/aliases")
    assert shown.status_code == 200
    assert hidden not in shown.text


def test_base_alias_repeated_changed_and_deleted(service: Service) -> None:
    """The same again is the same; in other words it is refused until it was forgotten."""
    called = unique("org/base")
    first = service.admin.post("/families/llama/aliases", {"name": called, "release": "v1"})
    again = service.admin.post("/families/llama/aliases", {"name": called.upper(), "release": "v1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    refused(service.admin.post("/families/llama/aliases", {"name": called, "release": "v2"}), 409, "base_alias.taken")
    refused(service.admin.post("/families/empty/aliases", {"name": called}), 409, "base_alias.taken")
    place = f"/families/llama/aliases/{first.json()['id']}"
    refused(service.admin("DELETE", place.replace("llama", "empty")), 404, "base_alias.unknown")
    assert service.admin("DELETE", place).json() == first.json()
    refused(service.admin("DELETE", place), 404, "base_alias.unknown")
    assert said(service, called) is None
    assert called not in service.admin.get("/families/llama/aliases", limit=500).text
    kinds = [e["kind"] for e in service.admin.get("/events", limit=500).json()["items"] if e["data"].get("name") == called]
    assert sorted(kinds) == ["family.named", "family.unnamed"]


@pytest.mark.parametrize("called", ["base/llama", "a b", "a@b", "a\nb", "é", "x" * 201])
def test_invalid_base_alias_is_refused(service: Service, called: str) -> None:
    answer = service.admin.post("/families/llama/aliases", {"name": called})
    assert (answer.status_code, answer.json()["code"]) in ((422, "request.name"), (422, "request.invalid"))


def test_base_alias_of_an_unknown_release_is_refused(service: Service, acme: Caller) -> None:
    """And only an admin says it."""
    refused(service.admin.post("/families/llama/aliases", {"name": "org/x", "release": "v9"}), 404, "release.unknown")
    refused(service.admin.post("/families/nothing/aliases", {"name": "org/x"}), 404, "family.unknown")
    refused(acme.post("/families/llama/aliases", {"name": "org/x"}), 403, "token.scope")
    bad_revision = {"name": "org/x", "revision": "a b"}
    refused(service.admin.post("/families/llama/aliases", bad_revision), 422, "request.name")


@pytest.mark.parametrize("text", ["a\0b", "\0", "v1\n", "\u202ev1", "\U0001f600"])
def test_a_base_named_with_odd_characters_is_unknown_on_every_database(service: Service, text: str) -> None:
    """A configuration may say anything; PostgreSQL takes no zero character, not even in a question."""
    assert said(service, f"base/{text}") is None
    assert said(service, f"org/{text}") is None
    assert said(service, "base/llama", text) == "llama/"
    assert said(service, "org/x", text) is None
