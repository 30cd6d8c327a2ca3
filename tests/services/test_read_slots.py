"""Places for merged reads: one owner's models cannot have them all, and slots come back however a read ends."""

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from app.domain.errors import DomainError
from app.services.read_slots import NoSlotError, ReadSlot, ReadSlots
from tests.support.fixtures import Models
from tests.support.registry import Service, refused

SHARD = "model-00001-of-00003.safetensors"


def test_read_slots_of_an_owner_are_limited() -> None:
    """The refusal says whether the owner's slots are taken or all of them."""
    slots = ReadSlots(total=3, each=2, what="reads")
    with ExitStack() as acme:
        for _ in range(2):
            acme.enter_context(slots.hold("acme"))
        with pytest.raises(DomainError) as error, slots.hold("acme"):
            pass
        assert (error.value.code, error.value.data["limit"], error.value.data["owner"]) == ("server.busy", 2, "acme")
        with slots.hold("other"):
            for owner in ("other", "third"):
                with pytest.raises(DomainError) as error, slots.hold(owner):
                    pass
                assert (error.value.data["limit"], "owner" in error.value.data) == (3, False)
        with pytest.raises(RuntimeError), slots.hold("other"):
            raise RuntimeError
    with ExitStack() as acme:
        for owner in ("acme", "acme", "other"):
            acme.enter_context(slots.hold(owner))
    assert not slots.taken()


def test_waiters_are_served_in_order_and_no_newcomer_overtakes() -> None:
    slots, served = ReadSlots(total=1, each=1, what="reads"), list[tuple[str, ReadSlot]]()
    first = slots.take("acme")
    for owner in ("one", "two", "three"):
        slots.wait(owner, lambda slot, owner=owner: served.append((owner, slot)))  # type: ignore[misc]
    first.release()
    assert [owner for owner, _ in served] == ["one"]
    for _ in range(2):
        with pytest.raises(NoSlotError):
            slots.take("newcomer")
        served[-1][1].release()
    assert [owner for owner, _ in served] == ["one", "two", "three"]
    served[-1][1].release()
    assert (slots.taken(), slots.waiting()) == ({}, 0)


def test_waiters_of_an_owner_with_all_its_places_are_passed_over() -> None:
    slots, served = ReadSlots(total=3, each=2, what="reads"), list[str]()
    held = [slots.take("acme") for _ in range(2)]
    for owner in ("acme", "acme", "other"):
        slots.wait(owner, lambda _, owner=owner: served.append(owner))  # type: ignore[misc]
    slots.reclaim()
    assert served == ["other"]
    held[0].release()
    assert served == ["other", "acme"]


def test_waiter_that_leaves_is_not_served() -> None:
    slots, served = ReadSlots(total=1, each=1, what="reads"), list[str]()
    held = slots.take("acme")
    gone = slots.wait("gone", lambda _: served.append("gone"))
    slots.wait("stays", lambda _: served.append("stays"))
    assert slots.is_first(gone)
    slots.leave(gone)
    held.release()
    assert served == ["stays"]


def test_idle_place_is_reclaimed_with_its_buffers_and_only_when_somebody_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest idle goes first; a read that computes is never interrupted; what was reclaimed is not given back twice."""
    slots, dropped = ReadSlots(total=3, each=3, what="reads"), list[str]()
    monkeypatch.setattr("app.services.read_slots.IDLE_SECONDS", 0.0)
    busy, first, second = (slots.take("acme") for _ in range(3))
    first.rest(lambda: dropped.append("first"))
    second.rest(lambda: dropped.append("second"))
    assert dropped == []
    slots.take("other")
    assert dropped == ["first"]
    assert (first.resume(), second.resume(), busy.resume()) == (False, True, True)
    with pytest.raises(NoSlotError):
        slots.take("other")
    first.release()
    assert slots.taken() == {"acme": 2, "other": 1}


def test_idle_place_is_kept_for_a_while() -> None:
    slots = ReadSlots(total=1, each=1, what="reads")
    slots.take("acme").rest(lambda: pytest.fail("reclaimed at once"))
    with pytest.raises(NoSlotError):
        slots.take("other")


def test_place_is_granted_also_where_the_idle_read_cannot_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.services.read_slots.IDLE_SECONDS", 0.0)
    slots, granted = ReadSlots(1, 1, "reads"), list[ReadSlot]()

    def fail() -> None:
        raise OSError("the connection is gone")

    slots.take("a").rest(fail)
    slots.wait("a", granted.append)
    slots.reclaim()
    assert len(granted) == 1
    granted[0].release()
    assert slots.taken() == {}


def test_owner_at_its_limit_reclaims_its_own_place_only(monkeypatch: pytest.MonkeyPatch) -> None:
    slots, dropped = ReadSlots(total=4, each=1, what="reads"), list[str]()
    monkeypatch.setattr("app.services.read_slots.IDLE_SECONDS", 0.0)
    for owner in ("other", "acme"):
        slots.take(owner).rest(lambda owner=owner: dropped.append(owner))  # type: ignore[misc]
    slots.take("acme")
    assert dropped == ["acme"]
    assert slots.taken() == {"other": 1, "acme": 1}


def test_reads_of_one_owner_leave_slots_to_another(fresh: Callable[..., Service], models: Models) -> None:
    """While one owner's models are read at all of its slots, another's are read on."""
    service = fresh(merged_reads=3)  # of which half, and at least one, for each
    service.admin.family("llama")
    service.release("llama", "v1", models.v1)
    callers = {owner: service.caller(owner) for owner in ("acme", "other")}
    files = {}
    for owner, caller in callers.items():
        caller.publish(caller.patch(owner, "tone"), models.patch)
        files[owner] = f"/ports/{caller.port(f'{owner}/tone', 'v1')['id']}/files/{SHARD}"
    with service.runtime.merged_reads.hold("acme"):
        answer = callers["acme"].get(files["acme"])
        problem = refused(answer, 503, "server.busy")
        assert int(answer.headers["Retry-After"]) > 0
        assert (problem["data"]["limit"], problem["data"]["owner"]) == (1, "acme")
        assert "acme" in problem["detail"]
        assert callers["other"].get(files["other"]).status_code == 200
    assert callers["acme"].get(files["acme"]).status_code == 200
