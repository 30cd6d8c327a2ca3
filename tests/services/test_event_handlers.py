"""Handlers of events: they run in the transaction of the fact, in order, and their events are handled in turn."""

from typing import Any

import pytest

from app.domain.events.base import OwnerEvent
from app.domain.events.patches import PatchChanged, VersionYanked
from app.domain.events.ports import PortRetired
from app.domain.principal import Principal
from app.services.unit_of_work import Handlers, Recorded, UnitOfWork
from tests.support.fixtures import World

ADMIN = Principal("admin", frozenset({"admin"}), "tok_test")
Found = Recorded[Any]


def record(world: World, handlers: Handlers, subject: str, *events: OwnerEvent) -> None:
    with world.service.runtime.write() as uow:
        uow.handlers = handlers
        for event in events:
            uow.event(event, ADMIN, "acme", subject)


def kinds(world: World, subject: str) -> list[str]:
    return [kind for (kind,) in world.service.rows("SELECT kind FROM events WHERE subject = :of ORDER BY id", of=subject)]


def test_handlers_run_in_order_and_their_events_are_handled_after(world: World) -> None:
    seen = list[tuple[str, str, str]]()

    def yank(uow: UnitOfWork, found: Found) -> None:
        seen.append(("yank", found.event.spec.kind, found.subject))
        uow.event(VersionYanked(reason="because"), found.principal, found.owner, found.subject)

    def note(uow: UnitOfWork, found: Found) -> None:
        seen.append(("note", found.event.spec.kind, found.subject))

    record(world, {PatchChanged: (yank, note), VersionYanked: (note,)}, "handled-1", PatchChanged(), PortRetired())
    assert seen == [
        ("yank", "patch.changed", "handled-1"), ("note", "patch.changed", "handled-1"), ("note", "version.yanked", "handled-1"),
    ]  # fmt: skip
    assert kinds(world, "handled-1") == ["patch.changed", "port.retired", "version.yanked"]


def test_error_in_a_handler_takes_the_fact_back(world: World) -> None:
    patch = world.patch()

    def fail(uow: UnitOfWork, found: Found) -> None:
        uow.session.connection().exec_driver_sql(f"UPDATE patches SET description = 'x' WHERE name = '{patch[5:]}'")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        record(world, {PatchChanged: (fail,)}, "handled-2", PatchChanged())
    assert kinds(world, "handled-2") == []
    assert world.acme.get(f"/patches/{patch}").json()["description"] != "x"


def test_handlers_that_record_without_end_are_stopped(world: World) -> None:
    def again(uow: UnitOfWork, found: Found) -> None:
        uow.event(PatchChanged(), found.principal, found.owner, found.subject)

    with pytest.raises(RuntimeError, match="rounds"):
        record(world, {PatchChanged: (again,)}, "handled-3", PatchChanged())
    assert kinds(world, "handled-3") == []
