"""Events: what happened, in order, from a cursor on; of one's own and the installation; as a page or a live stream."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.db import events as rows
from app.db.base import now
from tests.support.event_streams import event_stream, latest_cursor
from tests.support.fixtures import World
from tests.support.http_server import serving
from tests.support.registry import Service, refused, unique


def test_order_and_cursor(world: World, another: Callable[[], Path]) -> None:
    """The main job as it happened, each event once, whatever the size of a page."""
    start = latest_cursor(world.acme)
    patch = world.patch()
    world.acme.publish(patch, another())
    port = world.acme.port(patch, "v2")["id"]
    world.acme("PUT", f"/patches/{patch}/aliases/prod", json={"version": "1"})
    world.acme("PATCH", f"/patches/{patch}", json={"description": "x"})
    world.acme.post(f"/ports/{port}/retire")
    world.acme.post(f"/patches/{patch}/versions/1/yank", {"reason": "old"})
    expected = [
        ("patch.created", patch), ("version.published", f"{patch}@1"), ("port.ready", port), ("alias.moved", f"{patch}@prod"),
        ("patch.changed", patch), ("port.retired", port), ("version.yanked", f"{patch}@1"),
    ]  # fmt: skip
    for limit in (1, 3, 500):
        found, cursor = [], start
        while page := world.acme.get("/events", after=cursor, limit=limit).json():
            found += page["items"]
            if not page["items"]:
                assert page["cursor"] == cursor
                break
            assert page["cursor"] == page["items"][-1]["id"] > cursor
            cursor = page["cursor"]
        assert [(e["kind"], e["subject"]) for e in found] == expected
        assert sorted(e["id"] for e in found) == [e["id"] for e in found]
        assert {e["owner"] for e in found} == {e["actor"] for e in found} == {"acme"}
    assert found[1]["data"] == {"trained_on": "v1"}
    assert found[2]["data"] == {"patch": patch, "version": 1, "release": "v2", "forced": False}


def test_whose_events(world: World) -> None:
    """One's own, and those of families that one may see; an admin sees all."""
    starts = {
        who: latest_cursor(caller) for who, caller in (("acme", world.acme), ("rival", world.rival), ("admin", world.admin))
    }
    mine, theirs = world.patch(), world.rival.patch("rival", unique("p"))
    family = world.admin.family(unique("family"))
    seen = {
        who: [e["subject"] for e in caller.get("/events", after=starts[who]).json()["items"]]
        for who, caller in (("acme", world.acme), ("rival", world.rival), ("admin", world.admin))
    }
    assert seen == {"acme": [mine, *2 * [family]], "rival": [theirs, *2 * [family]], "admin": [mine, theirs, *2 * [family]]}


def test_a_fact_and_its_event_are_one(world: World) -> None:
    """What was refused, or was there already, left no event."""
    start = latest_cursor(world.admin)
    refused(world.admin.post("/families", {"name": "llama"}), 409, "family.taken")
    world.acme.patch("acme", "tone")
    refused(world.acme.post("/ports", {"patch": "acme/tone", "release": "v9"}), 404, "release.unknown")
    world.acme.port("acme/tone", "v2")
    assert latest_cursor(world.admin) == start


@pytest.mark.parametrize("query", [{"after": "-1"}, {"after": str(2**63)}, {"after": "x"}, {"limit": "0"}, {"limit": "501"}])
def test_cursors_that_cannot_be(world: World, query: dict[str, str]) -> None:
    """A cursor is a number that we gave."""
    refused(world.acme.get("/events", **query), 422, "request.invalid")


def test_a_cursor_of_the_future(world: World) -> None:
    """Nothing has happened after it, and it stays where it is."""
    assert world.acme.get("/events", after=2**62).json() == {"items": [], "cursor": 2**62}


def test_live_stream(world: World, live: str) -> None:
    """A stream begins behind its cursor and goes on with what happens while it is open; only what the token may see."""
    start = latest_cursor(world.acme)
    first = world.patch()
    with event_stream(live, world.acme.token, start) as messages:
        before = next(messages)
        assert (before["event"], before["data"]["subject"]) == ("patch.created", first)
        assert before["id"] == str(before["data"]["id"])
        world.rival.patch("rival", unique("p"))
        names: list[str] = []
        writer = threading.Thread(target=lambda: names.extend(world.patch() for _ in range(3)))
        writer.start()
        after = [next(messages) for _ in range(3)]
        writer.join()
    assert [m["data"]["subject"] for m in after] == names
    page = world.acme.get("/events", after=start).json()["items"]
    assert [m["data"] for m in [before, *after]] == page


def test_stream_that_reconnects(world: World, live: str) -> None:
    """Last-Event-ID, which a browser sends by itself, counts more than the address it first used."""
    start = latest_cursor(world.acme)
    names = [world.patch() for _ in range(3)]
    seen = world.acme.get("/events", after=start).json()["items"]
    with event_stream(live, world.acme.token, 0, **{"Last-Event-ID": str(seen[0]["id"])}) as messages:
        assert [next(messages)["data"]["subject"] for _ in range(2)] == names[1:]


def test_stream_without_a_token(live: str) -> None:
    """A stream is refused like anything else."""
    answer = httpx.get(f"{live}/api/v1/events", headers={"Accept": "text/event-stream"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token.missing")


def test_stream_of_a_revoked_token_ends(fresh: Callable[..., Service]) -> None:
    """Revoked at once: also for what is open."""
    service = fresh()
    acme = service.caller("acme")
    ident = service.admin.get("/tokens").json()["items"][0]["id"]
    with serving(service) as url, event_stream(url, acme.token, 0) as messages:
        assert next(messages)["event"] == "token.created"
        assert service.admin("DELETE", f"/tokens/{ident}").status_code == 200
        service.admin.family("after")
        assert "family.created" not in [m["event"] for m in messages]


def test_events_of_one_reader_are_found_by_index(fresh: Callable[..., Service]) -> None:
    """Among 100,000 events, whatever the cursor: neither the whole table nor the events of all others are read."""
    service = fresh()
    service.admin.family("llama")
    numbers = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
        if service.on_sqlite
        else "WITH n AS (SELECT i FROM generate_series(1, 100000) AS i)"
    )
    service.execute(
        f"{numbers} INSERT INTO events (at, kind, owner, subject, actor, data, family) "
        "SELECT :moment, 'job.progress', CASE i % 50 WHEN 0 THEN 'registry' ELSE 'owner' || i % 200 END, 'job' || i, 'registry', "
        "'{}', CASE i % 50 WHEN 0 THEN 'llama' END FROM n",
        moment=now(),
    )
    service.execute("ANALYZE")
    with service.runtime.read() as uow:
        for owner in ("owner7", "nobody"):
            plan = explained(uow.session, lambda owner=owner: rows.after(uow.session, 50_000, owner, 100))
            assert "ix_events_family" in plan
            assert "ix_events_owner" in plan
            assert not re.search(r"Seq Scan on events|SCAN events", plan), plan
        plan = explained(uow.session, lambda: rows.with_event(uow.session, "job.failed", ["owner7:digest:prt_7-1"]))
        assert "ix_events_kind_subject" in plan


def explained(session: Session, ask: Callable[[], object]) -> str:
    """The database's plan for the last statement that `ask` runs."""
    asked: list[tuple[str, Any]] = []
    listen = (session.get_bind(), "before_cursor_execute", lambda _c, _cur, text, values, *_: asked.append((text, values)))
    event.listen(*listen)
    ask()
    event.remove(*listen)
    statement, values = asked[-1]
    sqlite = session.get_bind().dialect.name == "sqlite"
    found = session.connection().exec_driver_sql(f"EXPLAIN {'QUERY PLAN ' * sqlite}{statement}", values)
    return "\n".join(str(row[-1]) for row in found)
