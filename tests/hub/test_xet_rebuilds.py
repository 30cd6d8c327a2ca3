"""Places for putting files together: one for each owner, in the order of coming."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from app.domain.errors import DomainError
from app.hub.xet.rebuilds import Rebuilds


def run(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await act()

    asyncio.run(limited())


def test_an_owner_with_many_shards_leaves_the_other_places_to_others() -> None:
    """Ten shards of one owner take one of two places; another owner's is put together at once."""

    async def act() -> None:
        rebuilds, goes_on, inside = Rebuilds(places=2), asyncio.Event(), list[str]()

        async def rebuild(owner: str) -> None:
            async with rebuilds.turn(owner), rebuilds.slot():
                inside.append(owner)
                await goes_on.wait()

        many = [asyncio.create_task(rebuild("mallory")) for _ in range(10)]
        while not inside:
            await asyncio.sleep(0)
        other = asyncio.create_task(rebuild("acme"))
        while len(inside) < 2:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert inside == ["mallory", "acme"]
        goes_on.set()
        await asyncio.gather(*many, other)
        assert inside.count("mallory") == 10
        assert not rebuilds._turns  # owners that left are forgotten

    run(act)


def test_whoever_sends_a_shard_slowly_holds_no_place() -> None:
    async def act() -> None:
        rebuilds = Rebuilds(places=1)
        async with rebuilds.turn("slow"), rebuilds.turn("quick"), rebuilds.slot():
            pass

    run(act)


def test_whoever_waits_too_long_is_refused_and_gives_its_turn_back() -> None:
    async def act() -> None:
        rebuilds = Rebuilds(places=1, wait_seconds=0.02)
        async with rebuilds.turn("acme"), rebuilds.slot():
            with pytest.raises(DomainError) as caught:
                async with rebuilds.turn("acme"):
                    pytest.fail("two of one owner")
            assert caught.value.code == "push.busy"
            with pytest.raises(DomainError) as caught:
                async with rebuilds.turn("rival"), rebuilds.slot():
                    pytest.fail("two in one place")
            assert caught.value.code == "push.busy"
        async with rebuilds.turn("rival"), rebuilds.slot(), rebuilds.turn("acme"):
            pass

    run(act)


def test_places_serve_the_loop_that_runs_them() -> None:
    """Nothing is bound when the module is imported: two applications in one process, each on a loop of its own."""

    async def act() -> None:
        rebuilds = Rebuilds(places=1)
        async with rebuilds.turn("acme"), rebuilds.slot():
            waiting = asyncio.create_task(rebuilds.slot().__aenter__())
            await asyncio.sleep(0)
        await waiting

    run(act)
    run(act)
