"""Families are seen by admins alone until they are granted: everything about them, what was merged with them too."""

import json
from collections.abc import Callable, Iterator

import pytest

from app.db.base import now
from app.db.events import Event
from tests.support.fixtures import Models
from tests.support.registry import Caller, Service, refused


@pytest.fixture(scope="module")
def private(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    """A registry with a family that is granted to nobody, and its release v1."""
    with registries().running() as service:
        assert service.admin.post("/families", {"name": "secret"}).status_code == 201
        assert service.release("secret", "v1", models.v1)["state"] == "ready"
        yield service


@pytest.fixture
def acme(private: Service) -> Iterator[Caller]:
    yield private.caller("acme")
    for reader in private.admin.get("/families/secret/grants").json()["readers"]:
        private.admin("DELETE", f"/families/secret/grants/{reader}")


# An owner keeps the events of its own grants when they are withdrawn.
OWN_GRANTS = {"family.granted", "family.withdrawn"}


def grant(service: Service, reader: str) -> list[str]:
    answer = service.admin("PUT", f"/families/secret/grants/{reader}", json={})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["readers"])


def sees(caller: Caller) -> set[str]:
    """Which of the ways to see the family show it."""
    found = {path for path in ("/families/secret", "/families/secret/releases", "/families/secret/releases/v1")
             if caller.get(path).status_code == 200}  # fmt: skip
    found |= {path for path in ("/families", "/releases") if "secret" in caller.get(path).text}
    kinds = {e["kind"] for e in caller.get("/events", limit=500).json()["items"] if "secret" in e["subject"]}
    return found | ({"/events"} if kinds - OWN_GRANTS else set())


ALL = {"/families/secret", "/families/secret/releases", "/families/secret/releases/v1", "/families", "/releases", "/events"}


def test_family_without_a_grant_is_unknown(private: Service, acme: Caller) -> None:
    """Not even that it is there: the same answer as for a family that is not."""
    assert sees(acme) == set()
    assert sees(private.admin) == ALL
    for path in ("/families/{}", "/families/{}/releases", "/families/{}/releases/v1"):
        hidden, none = (refused(acme.get(path.format(name)), 404, "family.unknown") for name in ("secret", "nothing"))
        assert hidden["detail"].replace("secret", "nothing") == none["detail"]
    refused(acme.post("/patches", {"owner": "acme", "name": "tone", "family": "secret"}), 404, "family.unknown")
    refused(acme.get("/patches", family="secret"), 404, "family.unknown")
    refused(acme.get("/ports", family="secret", release="v1"), 404, "family.unknown")


@pytest.mark.parametrize("reader", ["acme", "*"])
def test_family_with_a_grant_is_seen_by_the_grantee(private: Service, acme: Caller, reader: str) -> None:
    """An owner, or everybody; a grant is one however often it is given."""
    assert grant(private, reader) == grant(private, reader) == [reader]
    assert sees(acme) == ALL
    assert sees(private.caller("rival")) == (ALL if reader == "*" else set())


def test_merged_model_of_a_withdrawn_grant_is_not_read(private: Service, acme: Caller, models: Models) -> None:
    """Merged bytes are the base's as well: when a grant is taken back they are not read any more, and when it is given, again."""
    grant(private, "acme")
    patch = acme.patch("acme", "tone", family="secret")
    acme.publish(patch, models.patch)
    port = acme.port(patch, "v1")["id"]
    reads = (f"/ports/{port}/files", f"/ports/{port}/files/config.json")
    assert [acme.get(path).status_code for path in reads] == [200, 200]
    assert private.admin("DELETE", "/families/secret/grants/acme").json()["readers"] == []
    for path in reads:
        refused(acme.get(path), 404, "family.unknown")
    refused(acme.post("/ports", {"patch": patch, "release": "v1"}), 404, "family.unknown")
    refused(acme.post("/ports/check", {"patch": patch, "release": "v1"}), 404, "family.unknown")
    refused(acme.post(f"/ports/{port}/digest"), 404, "family.unknown")
    refused(acme.post(f"/ports/{port}/materialise", {"to": "s3://bucket/x"}), 404, "family.unknown")
    # The patch is acme's own and stays readable.
    assert acme.get(f"/patches/{patch}/versions/1/files/adapter_config.json").status_code == 200
    grant(private, "acme")
    assert [acme.get(path).status_code for path in reads] == [200, 200]


def test_grant_by_others_than_admins_is_refused(private: Service, acme: Caller) -> None:
    """And only to names that can be owners; a grant that is not there cannot be taken back."""
    grant(private, "acme")
    operator = private.caller("acme", "read", "publish", "operate")
    refused(operator("PUT", "/families/secret/grants/rival", json={}), 403, "token.scope")
    refused(operator("DELETE", "/families/secret/grants/acme"), 403, "token.scope")
    refused(operator.get("/families/secret/grants"), 403, "token.scope")
    refused(private.admin("PUT", "/families/secret/grants/Not%20a%20name", json={}), 422, "request.name")
    refused(private.admin("DELETE", "/families/secret/grants/rival"), 404, "family.grant")
    refused(private.admin("PUT", "/families/nothing/grants/acme", json={}), 404, "family.unknown")
    kinds = [e["kind"] for e in private.admin.get("/events", limit=500).json()["items"] if e["subject"] == "secret"]
    assert kinds[0] == "family.created"
    assert {"family.granted", "family.withdrawn"} <= set(kinds)


def test_family_created_with_readers_is_granted_to_them(private: Service) -> None:
    made = private.admin.post("/families", {"name": "open", "readers": ["acme", "rival"]})
    assert made.status_code == 201
    assert private.admin.get("/families/open/grants").json() == {"family": "open", "readers": ["acme", "rival"]}
    refused(private.admin.post("/families", {"name": "half", "readers": ["acme", "Not a name"]}), 422, "request.name")
    refused(private.admin.get("/families/half"), 404, "family.unknown")


def grants_seen(answer: str) -> list[tuple[str, str, str]]:
    """Kind, family and grantee of the events of grants in an answer, which is JSON lines or a page of events."""
    try:
        events = json.loads(answer)["items"]
    except ValueError:
        events = [json.loads(line) for line in answer.splitlines()]
    return [(e["kind"], e["subject"], e["data"]["to"]) for e in events if e["kind"] in OWN_GRANTS]


def test_grant_event_is_seen_by_its_grantee_and_admins_only(fresh: Callable[..., Service]) -> None:
    """Other readers of the family learn neither who else may see it nor which owner the admin's token belongs to."""
    service = fresh()
    admin, acme, rival = service.caller("company", "admin"), service.caller("acme", "operate"), service.caller("rival", "operate")
    admin.family("shared")
    for reader in ("acme", "rival"):
        assert admin("PUT", f"/families/shared/grants/{reader}").status_code == 200
    assert admin("DELETE", "/families/shared/grants/rival").status_code == 200
    everybody = ("family.granted", "shared", "*")
    to_acme, to_rival, from_rival = (
        ("family.granted", "shared", "acme"), ("family.granted", "shared", "rival"), ("family.withdrawn", "shared", "rival"),
    )  # fmt: skip
    assert grants_seen(acme.get("/events", limit=500).text) == [everybody, to_acme]
    assert grants_seen(rival.get("/events", limit=500).text) == [everybody, to_rival, from_rival]
    assert grants_seen(admin.get("/events", limit=500).text) == [everybody, to_acme, to_rival, from_rival]
    assert grants_seen(acme.get("/audit").text) == [to_acme]
    assert grants_seen(rival.get("/audit").text) == [to_rival, from_rival]
    assert grants_seen(admin.get("/audit").text) == [everybody, to_acme, to_rival, from_rival]
    assert "rival" not in acme.get("/events", limit=500).text
    of_family = [e for e in acme.get("/events", limit=500).json()["items"] if e["owner"] == "registry"]
    assert {e["actor"] for e in of_family} == {"registry"}
    assert {e["actor"] for e in admin.get("/events", limit=500).json()["items"] if e["subject"] == "shared"} == {"company"}


def test_grant_written_by_an_older_version_is_hidden(fresh: Callable[..., Service]) -> None:
    """Older versions wrote grants as events of the family, and rows of events never change."""
    service = fresh()
    service.admin.family("shared")
    acme = service.caller("acme")
    old = {"at": now(), "kind": "family.granted", "owner": "registry", "subject": "shared", "actor": "admin", "family": "shared"}
    with service.runtime.write() as uow:
        uow.session.add_all(Event(**old, data={"to": reader}) for reader in ("secret-customer", "*"))
    seen = acme.get("/events", limit=500)
    assert "secret-customer" not in seen.text
    assert grants_seen(seen.text) == [("family.granted", "shared", "*")] * 2
    assert "secret-customer" in service.admin.get("/events", limit=500).text
