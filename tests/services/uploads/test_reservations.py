"""Bytes that arrive and are not recorded yet: they count against the quota, and one request at a time sends an object."""

import asyncio
import datetime as dt
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.db.base import now
from app.domain.errors import DomainError
from app.http.leases import renewed
from app.services.operations.maintenance import sweep_all
from tests.support.asgi import AsgiExchange
from tests.support.pusher import Pusher, digest, file, here, refused
from tests.support.registry import Service, unique
from tests.support.xet_blocks import chunk

NAMES = [f"{number:02x}" * 32 for number in range(8)]


@pytest.fixture(scope="module")
def service(registries: Callable[..., Service]) -> Iterator[Service]:
    with registries().running() as running:
        running.admin.family("llama")
        yield running


@pytest.fixture
def pusher(service: Service) -> Pusher:
    owner = unique("sender")
    return Pusher(service, f"{owner}/tone", owner).create()


def used(pusher: Pusher) -> int:
    owner = pusher.repository.split("/")[0]
    return int(pusher.service.admin.get(f"/owners/{owner}/usage").json()["bytes"]["used"])


def staged(service: Service) -> set[str]:
    return {name for name, _ in service.runtime.tools.blobs.uploads()}


def address(pusher: Pusher, content: bytes) -> str:
    """Where a file can be PUT."""
    return here(pusher.batch(content).json()["objects"][0]["actions"]["upload"]["href"])


class Slow:
    """A body that stops after its first piece until it is told to go on, or that its client is gone."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces, self._number = pieces, itertools.count()
        self.waits, self.goes_on, self.is_gone = asyncio.Event(), asyncio.Event(), False

    async def __call__(self) -> bytes | None:
        number = next(self._number)
        if number:
            self.waits.set()
            await self.goes_on.wait()
        if number and self.is_gone:
            from starlette.requests import ClientDisconnect

            raise ClientDisconnect
        return self._pieces[number] if number < len(self._pieces) else None


def put(service: Service, path: str, body: Any) -> "asyncio.Task[AsgiExchange]":
    return asyncio.create_task(AsgiExchange(service.app, "PUT", path).run(body))


def at_once(content: bytes) -> Slow:
    body = Slow(content)
    body.goes_on.set()
    return body


def run(act: Callable[[], Any]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await act()

    asyncio.run(limited())


def test_a_second_attempt_at_an_object_is_refused_at_once(service: Service, pusher: Pusher) -> None:
    """While the first sends; nothing of its body is read. The first is not disturbed."""

    async def act() -> None:
        path, slow = address(pusher, b"12345678"), Slow(b"1234", b"5678")
        first = put(service, path, slow)
        await slow.waits.wait()
        second = await put(service, path, at_once(b"12345678"))
        assert (second.status, second.code, second.read) == (503, "upload.under_way", 0)
        assert int(second.sent["retry-after"]) > 0
        slow.goes_on.set()
        assert (await first).status == 200

    run(act)
    assert pusher.batch(b"12345678").json()["objects"] == [{"oid": digest(b"12345678"), "size": 8}]


@pytest.mark.parametrize("how", ["gone", "other bytes"])
def test_an_attempt_that_fails_makes_way_at_once(service: Service, pusher: Pusher, how: str) -> None:
    async def act() -> None:
        path, slow = address(pusher, b"12345678"), Slow(b"1234", b"xxxx")
        slow.is_gone = how == "gone"
        slow.goes_on.set()
        assert (await put(service, path, slow)).code == ("upload.broken" if slow.is_gone else "upload.digest")
        assert (await put(service, path, at_once(b"12345678"))).status == 200

    before = staged(service)
    run(act)
    assert len(staged(service) - before) == 1


def test_an_attempt_whose_lease_ended_is_taken_over(service: Service, pusher: Pusher) -> None:
    """As when its process died. Should it live after all, it is refused."""
    content, before = bytes(range(256)) * 5000, staged(service)  # more than a piece that is written at once

    async def act() -> None:
        path, slow = address(pusher, content), Slow(content[: 2**20], content[2**20 :])
        first = put(service, path, slow)
        await slow.waits.wait()
        past = now() - dt.timedelta(seconds=1)
        service.execute(
            "UPDATE pushed_objects SET attempt_until = :past WHERE digest = :digest", past=past, digest=digest(content)
        )
        second = Slow(content[:10], content[10:])
        taken = put(service, path, second)
        await second.waits.wait()
        slow.goes_on.set()
        assert (await first).code == "upload.offset"  # what it had staged was discarded
        second.goes_on.set()
        assert (await taken).status == 200

    run(act)
    assert len(staged(service) - before) == 1
    assert pusher.batch(content).json()["objects"] == [{"oid": digest(content), "size": len(content)}]


def test_an_object_that_is_there_is_not_staged_again(service: Service, pusher: Pusher) -> None:
    async def act() -> None:
        path = address(pusher, b"12345678")
        assert (await put(service, path, at_once(b"12345678"))).status == 200
        before = staged(service)
        assert (await put(service, path, at_once(b"12345678"))).status == 200
        assert (await put(service, path, at_once(b"123456789"))).code == "request.too_large"
        assert staged(service) == before

    run(act)


def test_blocks_under_way_count_against_the_quota(service: Service, pusher: Pusher) -> None:
    """Two that arrive at once have room together, or the second is refused before it is read."""
    block = chunk(b"x" * 600)
    owner = pusher.repository.split("/")[0]
    assert service.admin("PUT", f"/owners/{owner}/quota", json={"bytes": 1000}).status_code == 200
    session = pusher.session()

    def send(name: str, body: Slow) -> "asyncio.Task[AsgiExchange]":
        headers = session.headers | {"content-length": str(len(block))}
        headers = {key.lower(): value for key, value in headers.items()}
        sent = AsgiExchange(service.app, "POST", f"{session.url}/v1/xorbs/default/{name}", None, headers)
        return asyncio.create_task(sent.run(body))

    async def act() -> None:
        slow = Slow(block[:10], block[10:])
        first = send(NAMES[0], slow)
        await slow.waits.wait()
        assert used(pusher) == len(block)
        second = await send(NAMES[1], at_once(block))
        assert (second.status, second.code, second.read) == (403, "quota.exceeded", 0)
        slow.is_gone = True
        slow.goes_on.set()
        assert (await first).code == "upload.broken"
        assert used(pusher) == 0
        assert (await send(NAMES[1], at_once(block))).status == 200
        assert used(pusher) == len(block)

    run(act)


def test_a_block_of_unknown_length_counts_as_the_largest_until_it_is_there(service: Service, pusher: Pusher) -> None:
    session, block = pusher.session(), chunk(b"x" * 600)

    async def act() -> None:
        slow = Slow(block[:10], block[10:])
        headers = {key.lower(): value for key, value in session.headers.items()}
        sent = AsgiExchange(service.app, "POST", f"{session.url}/v1/xorbs/default/{NAMES[0]}", None, headers)
        first = asyncio.create_task(sent.run(slow))
        await slow.waits.wait()
        assert used(pusher) > 64 * 2**20
        slow.goes_on.set()
        assert (await first).status == 200
        assert used(pusher) == len(block)

    run(act)


def test_a_file_that_a_shard_makes_counts_before_it_is_staged(service: Service, pusher: Pusher) -> None:
    """The block makes room for its own bytes; what the file has beyond them is refused where there is no room."""
    owner, session, before = pusher.repository.split("/")[0], pusher.session(), staged(service)
    block = chunk(bytes(100_000), 1)
    assert session.block(NAMES[0], block).status_code == 200
    terms = [(NAMES[0], 100_000, 0, 1)]
    assert service.admin("PUT", f"/owners/{owner}/quota", json={"bytes": 99_999}).status_code == 200
    refused(session.shard((digest(bytes(100_000)), terms)), 403, "quota.exceeded")
    assert used(pusher) == len(block)
    assert len(staged(service) - before) == 1
    assert service.admin("PUT", f"/owners/{owner}/quota", json={"bytes": 100_000}).status_code == 200
    refused(session.shard((digest(b"other"), terms)), 422, "xet.digest")
    assert used(pusher) == len(block)
    assert session.shard((digest(bytes(100_000)), terms)).status_code == 200
    assert used(pusher) == 100_000


def test_a_small_file_in_a_commit_counts_once(service: Service, pusher: Pusher) -> None:
    """Also where it is sent again with no room left for another."""
    owner, card = pusher.repository.split("/")[0], b"# A card of 20 bytes"
    assert service.admin("PUT", f"/owners/{owner}/quota", json={"bytes": len(card)}).status_code == 200
    assert pusher.commit(file("README.md", card)).status_code == 200
    assert pusher.commit(file("README.md", card)).status_code == 200
    before = staged(service)
    refused(pusher.commit(file("README.md", b"another")), 403, "quota.exceeded")
    assert staged(service) == before
    assert used(pusher) == len(card)


def test_reservations_of_processes_that_died_are_swept_with_their_bytes(service: Service, pusher: Pusher) -> None:
    session, block = pusher.session(), chunk(b"x" * 600)

    async def act() -> None:
        slow = Slow(block[:10], block[10:])
        headers = {key.lower(): value for key, value in session.headers.items()}
        sent = AsgiExchange(service.app, "POST", f"{session.url}/v1/xorbs/default/{NAMES[0]}", None, headers)
        first = asyncio.create_task(sent.run(slow))
        await slow.waits.wait()
        sweep_all(service.runtime.read, service.runtime.write)
        assert used(pusher) > 0
        service.execute(
            "UPDATE pushed_objects SET created_at = :past WHERE repository = :name",
            past=now() - dt.timedelta(days=1, minutes=1), name=pusher.repository,
        )  # fmt: skip
        sweep_all(service.runtime.read, service.runtime.write)
        assert used(pusher) == 0
        slow.goes_on.set()
        assert (await first).code == "upload.unknown"  # its row is gone, so it is not taken

    run(act)


def test_a_lease_is_renewed_until_the_request_ends() -> None:
    """A renewal that fails is tried again; none comes after the end."""
    calls = itertools.count(1)

    async def act() -> None:
        loop, third, number = asyncio.get_running_loop(), asyncio.Event(), 0

        def renew() -> None:
            nonlocal number
            number = next(calls)
            if number == 1:
                raise DomainError("database.unreachable")
            if number == 3:
                loop.call_soon_threadsafe(third.set)

        async with renewed(renew, 0.001):
            await third.wait()
        last = next(calls)
        await asyncio.sleep(0.05)
        assert next(calls) == last + 1

    run(act)
