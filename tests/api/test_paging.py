"""Keyset paging: every row once, whatever is added meanwhile, and no cursor but ours."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.fixtures import World
from tests.support.registry import Caller, Service, refused, unique


def pages(caller: Caller, path: str, limit: int, between: Callable[[], object] = lambda: None, **query: Any) -> list[list[Any]]:
    """All pages of a list; `between` runs after each."""
    found: list[list[Any]] = []
    cursor: str | None = None
    while True:
        page = caller.get(path, limit=limit, **query, **({"cursor": cursor} if cursor else {})).json()
        assert len(page["items"]) <= limit
        found.append(page["items"])
        cursor = page["next_cursor"]
        between()
        if cursor is None:
            return found


def test_pages_during_inserts_hold_each_row_once(world: World) -> None:
    """Seven patches by pages of two, newest first, while others are created: each once, and none of the new ones."""
    family = world.admin.family(unique("family"))
    names = [world.acme.patch("acme", unique("p"), family).partition("/")[2] for _ in range(7)]
    found = pages(world.acme, "/patches", 2, lambda: world.acme.patch("acme", unique("p"), family), family=family)
    assert [[p["name"] for p in page] for page in found] == [names[:4:-1], names[4:2:-1], names[2:0:-1], names[:1]]
    assert len(world.acme.get("/patches", family=family).json()["items"]) == 7 + len(found)


def test_last_page_that_is_full_has_no_next_cursor(world: World) -> None:
    """Four rows by two are two pages, not three with an empty one; no row is an empty page."""
    family = world.admin.family(unique("family"))
    assert pages(world.acme, "/patches", 2, family=family) == [[]]
    for _ in range(4):
        world.acme.patch("acme", unique("p"), family)
    assert [len(page) for page in pages(world.acme, "/patches", 2, family=family)] == [2, 2]


def test_every_list_by_pages_equals_the_list_at_once(world: World, another: Callable[[], Path]) -> None:
    """Families, releases, patches, versions, ports and tokens: by ones, the same as all at once."""
    patch, *_ = [world.patch() for _ in range(3)]
    for _ in range(3):
        world.acme.publish(patch, another())
    for version in (1, 2, 3):
        world.acme.port(patch, "v2", version=version)
    for path, query in (
        ("/families", {}), ("/releases", {}), ("/families/llama/releases", {}), ("/patches", {"family": "llama"}),
        (f"/patches/{patch}/versions", {}), ("/ports", {"patch": patch}), ("/tokens", {}),
    ):  # fmt: skip
        whole = world.admin.get(path, limit=500, **query).json()
        assert whole["next_cursor"] is None
        assert [item for page in pages(world.admin, path, 2, **query) for item in page] == whole["items"]
        assert len(whole["items"]) > 2 or path == "/families"


@pytest.mark.parametrize(
    "cursor",
    ["x", "!!!", "\u00e4", base64.urlsafe_b64encode(b"a' OR 1=1").decode(), base64.urlsafe_b64encode(b"\xff").decode(), "===="],
)
def test_cursor_that_no_list_gave_is_refused(world: World, cursor: str) -> None:
    """A cursor that did not come from a list is refused, not guessed at."""
    problem = refused(world.admin.get("/families", cursor=cursor), 422, "request.cursor")
    assert problem["data"] == {"cursor": cursor}


def test_page_holds_at_most_the_maximum(fresh: Callable[..., Service]) -> None:
    """A page holds at most what the installation allows, whatever is asked for."""
    service = fresh(max_page=3)
    for _ in range(5):
        service.admin.family(unique("family"))
    assert [len(page) for page in pages(service.admin, "/families", 3)] == [3, 2]
    assert len(service.admin.get("/families", limit=1000).json()["items"]) == 3
    assert len(service.admin.get("/families").json()["items"]) == 3


def test_cursor_of_another_owners_list_shows_nothing_of_it(world: World) -> None:
    """A cursor of somebody else's list shows nothing of theirs."""
    family = world.admin.family(unique("family"))
    for _ in range(3):
        world.acme.patch("acme", unique("p"), family)
    cursor = world.acme.get("/patches", family=family, limit=1).json()["next_cursor"]
    assert world.rival.get("/patches", family=family, cursor=cursor).json()["items"] == []
