"""The audit trail: who did what to what and from where, for those who may know it, never changed after."""

import json
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from app.api.routers import audit
from tests.support.fixtures import World
from tests.support.registry import Caller, refused, unique


def lines(caller: Caller, after: int = 0) -> list[dict[str, Any]]:
    answer = caller.get("/audit", after=after)
    assert answer.headers["Content-Type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines()]


def test_audit_line_of_an_admin_acting_for_an_owner_names_token_address_and_request(world: World) -> None:
    """A change by an admin in another's name: its token, its address and the id of the request are in its line."""
    name = unique("patch")
    made = world.admin.post("/patches", {"owner": "acme", "name": name, "family": "llama"}, {"X-Request-Id": "r-17"})
    assert made.status_code == 201
    line = lines(world.admin)[-1]
    seen = world.admin.get("/whoami").json()
    assert {key: line[key] for key in ("kind", "owner", "subject", "actor", "token", "address", "request")} == {
        "kind": "patch.created", "owner": "acme", "subject": f"acme/{name}", "actor": "admin", "token": seen["token"],
        "address": "testclient", "request": "r-17",
    }  # fmt: skip


def test_audit_trail_is_shown_to_operators_of_the_owner_only(world: World) -> None:
    """An operator sees what concerns its owner; readers and publishers nothing; nobody another's."""
    operator = world.service.caller("acme", "read", "publish", "operate")
    world.rival.patch("rival", unique("patch"))
    world.acme.patch("acme", unique("patch"))
    owners = {line["owner"] for line in lines(operator)}
    assert owners == {"acme"}
    assert {"acme", "rival", "registry"} <= {line["owner"] for line in lines(world.admin)}
    for caller in (world.acme, world.reader):
        refused(caller.get("/audit"), 403, "token.scope")
    # Events, which everybody reads, do not say from where.
    assert not {"address", "token", "request"} & set(world.acme.get("/events", limit=1).json()["items"][0])


def test_audit_pages_hold_each_event_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event once, however many pages it takes; later only what is new."""
    whole = lines(world.admin)
    monkeypatch.setattr(audit, "PAGE", 3)
    assert lines(world.admin) == whole
    assert len({line["id"] for line in whole}) == len(whole) > 6
    assert lines(world.admin, whole[-1]["id"]) == []
    world.acme.patch("acme", unique("patch"))
    assert [line["kind"] for line in lines(world.admin, whole[-1]["id"])] == ["patch.created"]


@pytest.mark.parametrize("change", ["UPDATE events SET actor = 'nobody'", "DELETE FROM events"])
def test_audit_rows_cannot_be_changed_or_deleted(world: World, change: str) -> None:
    """Not even a statement of ours."""
    before = lines(world.admin)
    with pytest.raises(DBAPIError, match="append-only"):
        world.service.execute(change)
    assert lines(world.admin) == before
