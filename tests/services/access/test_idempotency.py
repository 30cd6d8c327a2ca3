"""Idempotency-Key: the first answer again, for the same request of the same token; nothing else is touched by it."""

import datetime as dt
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from app.db.base import now
from app.services.operations import retention
from tests.support.fixtures import World
from tests.support.registry import Service, refused, unique
from tests.support.uploads import announced


def key() -> dict[str, str]:
    """A key that was never used."""
    return {"Idempotency-Key": unique("key-")}


def test_repeat_under_a_key_returns_the_first_answer(world: World) -> None:
    """Status, body and Location of the first answer, marked as a repeat; the fact happened once."""
    headers, body = key(), {"name": unique("family")}
    first = world.admin.post("/families", body, headers)
    assert first.status_code == 201
    assert "Idempotent-Replayed" not in first.headers
    before = world.admin.get("/events", limit=500).json()["cursor"]
    for _ in range(2):
        again = world.admin.post("/families", body, headers)
        assert (again.status_code, again.content) == (201, first.content)
        assert again.headers["Location"] == first.headers["Location"]
        assert again.headers["Idempotent-Replayed"] == "true"
    assert world.admin.get("/events", after=before).json()["items"] == []
    # Without the key it is a second try.
    refused(world.admin.post("/families", body), 409, "family.taken")


def test_other_request_under_a_used_key_is_refused(world: World) -> None:
    """Another body, or another path, is refused and does nothing."""
    headers, name = key(), unique("family")
    assert world.admin.post("/families", {"name": name}, headers).status_code == 201
    other = unique("family")
    refused(world.admin.post("/families", {"name": other}, headers), 409, "request.idempotency_key")
    refused(world.admin.get(f"/families/{other}"), 404, "family.unknown")
    body = {"owner": "acme", "name": unique("p"), "family": "llama"}
    refused(world.admin.post("/patches", body, headers), 409, "request.idempotency_key")


def test_key_of_another_token_is_another_key(world: World) -> None:
    """Another token's key of the same name is another key, also of the same owner."""
    headers = key()
    second = world.service.caller("acme")
    for caller, owner in ((world.acme, "acme"), (world.rival, "rival"), (second, "acme")):
        made = caller.post("/patches", {"owner": owner, "name": unique("p"), "family": "llama"}, headers)
        assert made.status_code == 201
        assert "Idempotent-Replayed" not in made.headers


def test_refused_request_may_be_repeated_under_its_key(world: World) -> None:
    """What was refused may be tried again under its key."""
    headers, family = key(), unique("family")
    body = {"owner": "acme", "name": unique("p"), "family": family}
    refused(world.acme.post("/patches", body, headers), 404, "family.unknown")
    world.admin.family(family)
    made = world.acme.post("/patches", body, headers)
    assert made.status_code == 201
    assert "Idempotent-Replayed" not in made.headers


def test_every_creation_repeats_its_answer_under_a_key(world: World, another: Callable[[], Path]) -> None:
    """Families, releases, patches, drafts and ports: each repeats its answer, although the world has moved on."""
    directory = another()
    patch = world.patch()
    world.acme.publish(patch, another())
    creations: list[tuple[Any, str, dict[str, Any]]] = [
        (world.admin, "/families", {"name": unique("family")}),
        (world.admin, "/families/llama/releases", {"name": unique("r"), "directory": str(world.models.v1)}),
        (world.acme, "/patches", {"owner": "acme", "name": unique("p"), "family": "llama"}),
        (world.acme, f"/patches/{patch}/versions", {"trained_on": "v1", "files": announced(directory)}),
        (world.acme, "/ports", {"patch": patch, "release": "v2"}),
    ]
    for caller, path, body in creations:
        headers = key()
        first = caller.post(path, body, headers)
        assert first.status_code in (201, 202), first.text
        if path == "/ports":
            world.acme.post(f"/ports/{first.json()['id']}/retire")
        world.service.run_jobs()
        again = caller.post(path, body, headers)
        assert (again.status_code, again.json()) == (first.status_code, first.json())
        assert again.headers["Idempotent-Replayed"] == "true"


def test_concurrent_requests_under_a_key_happen_once(world: World) -> None:
    """The same request from several threads at once happens once, and all hear the same."""
    headers, body = key(), {"name": unique("family")}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: world.admin.post("/families", body, headers), range(4)))
    assert {a.status_code for a in answers} == {201}
    assert len({a.content for a in answers}) == 1
    assert sorted("Idempotent-Replayed" in a.headers for a in answers) == [False, True, True, True]


def test_key_that_is_too_long_is_refused(world: World) -> None:
    """A key has a bound, like every name."""
    refused(world.admin.post("/families", {"name": unique("f")}, {"Idempotency-Key": "k" * 201}), 422, "request.invalid")


def test_key_is_free_after_a_day(fresh: Callable[..., Service]) -> None:
    """Answers are kept for a day; then the key is free."""
    service, headers = fresh(), key()
    assert service.admin.post("/families", {"name": "llama"}, headers).status_code == 201
    for hours, kept in ((23, True), (25, False)):
        service.execute("UPDATE idempotency_answers SET created_at = :moment", moment=now() - dt.timedelta(hours=hours))
        retention.prune(service.runtime.read, service.runtime.write, service.settings.retention)
        again = service.admin.post("/families", {"name": "llama"}, headers)
        assert again.status_code == (201 if kept else 409)
