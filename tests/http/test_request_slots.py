"""Admission of requests: no owner has all worker threads, and health needs none."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import Request, Response
from starlette.types import Message, Receive, Scope, Send

from app.domain.errors import DomainError
from app.http import request_slots
from app.http.request_slots import RequestSlot, RequestSlots, Shares
from app.http.slots import Slots
from tests.support.fixtures import Models
from tests.support.halted_blobs import PATIENCE, halted
from tests.support.registry import Service, refused
from tests.support.sites import http, site


@pytest.fixture
def service(registries: Callable[..., Service], models: Models) -> Iterator[Service]:
    """A registry with eight worker threads, of which one owner has two, and release v1 of family llama."""
    with registries(request_threads=8, requests_per_owner=2).running() as service:
        service.admin.family("llama")
        service.release("llama", "v1", models.v1)
        yield service


@pytest.fixture
def asking(service: Service, models: Models) -> str:
    return drafted(service, models)


def drafted(service: Service, models: Models) -> str:
    """The address of a file of a draft of acme's; HEAD asks the store what arrived of it."""
    draft = service.caller("acme").draft(service.admin.patch("acme", "tone"), models.patch)
    return str(draft["uploads"][0]["url"])


def test_owner_with_all_of_its_slots_leaves_threads_to_others(service: Service, asking: str) -> None:
    """Two of its requests stand still in threads and six wait; another owner, a stranger and health are answered meanwhile."""
    acme, rival = service.caller("acme"), service.caller("rival")
    with halted(service.runtime, "received") as blobs, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(acme.head, asking) for _ in range(8)]
        for _ in range(2):
            assert blobs.calls.acquire(timeout=PATIENCE)
        assert rival.get("/whoami").status_code == 200
        assert service.client.get("/problems").status_code == 200
        assert not blobs.calls.acquire(blocking=False)
        blobs.go_on.set()
        assert {answer.result(PATIENCE).status_code for answer in answers} == {200}


def test_request_that_waits_too_long_for_a_slot_is_refused(
    service: Service, asking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told when to come back, over the API and over the Hub protocol, where clients come back at another status."""
    monkeypatch.setattr(request_slots, "PATIENCE_SECONDS", 0.1)
    acme = service.caller("acme")
    with halted(service.runtime, "received") as blobs, ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(acme.head, asking) for _ in range(2)]
        for _ in answers:
            assert blobs.calls.acquire(timeout=PATIENCE)
        refusal = acme.get("/whoami")
        assert refused(refusal, 503, "server.busy")["data"] == {"limit": 2, "what": "requests of acme"}
        assert refusal.headers["Retry-After"]
        of_hub = acme("GET", "/api/whoami-v2", whole=True, headers={"User-Agent": "x; hf_hub/1.33.0"})
        refused(of_hub, 429, "server.busy")
        assert of_hub.headers["Retry-After"]
        blobs.go_on.set()
        assert {answer.result(PATIENCE).status_code for answer in answers} == {200}


def test_health_is_answered_while_all_worker_threads_are_busy(registries: Callable[..., Service], models: Models) -> None:
    """It needs none of them, and no slot."""
    with registries(request_threads=4, requests_per_owner=2).running() as service:
        service.admin.family("llama")
        service.release("llama", "v1", models.v1)
        address = drafted(service, models)
        with halted(service.runtime, "received") as blobs, ThreadPoolExecutor(5) as pool:
            answers = [pool.submit(caller.head, address) for caller in (service.caller("acme"), service.admin) for _ in range(2)]
            for _ in answers:
                assert blobs.calls.acquire(timeout=PATIENCE)
            waits = pool.submit(service.client.get, "/problems")
            for path in ("/healthz", "/readyz"):
                assert service.client.get(path).status_code == 200
            assert not waits.done()
            blobs.go_on.set()
            assert {answer.result(PATIENCE).status_code for answer in [*answers, waits]} == {200}


def test_slow_hub_keeps_no_worker_thread(service: Service) -> None:
    """Whoever asks for all of an organisation waits for its hub on a thread of that kind; the owner itself goes on, too."""
    asked, go_on = threading.Semaphore(0), threading.Event()

    def slow(_: bytes, send: Callable[[bytes], None]) -> None:
        asked.release()
        assert go_on.wait(PATIENCE)
        send(http(b"[]"))

    acme = service.caller("acme")
    with site(slow) as hub, ThreadPoolExecutor(4) as pool:
        body = {"endpoint": hub.url, "private_hosts": ["127.0.0.1"], "http_hosts": ["127.0.0.1"], "publishers": True}
        assert service.admin("PUT", "/upstreams/own", json=body).status_code == 201
        answers = [pool.submit(acme.post, "/imports", {"sources": ["own:org/*"]}) for _ in range(4)]
        for _ in range(2):
            assert asked.acquire(timeout=PATIENCE)
        assert acme.get("/whoami").status_code == 200
        assert not asked.acquire(blocking=False)
        go_on.set()
        assert {answer.result(PATIENCE).status_code for answer in answers} == {202}


def test_body_that_is_waited_for_takes_no_slot() -> None:
    """A client that sends slowly keeps nobody out; once its body is there, its request needs a slot like any other."""
    sent: list[int] = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def run() -> None:
        slots, body = RequestSlots(app, Shares(1), refusal), asyncio.Event()

        async def slow() -> Message:
            await body.wait()
            return {"type": "http.request", "body": b"x", "more_body": False}

        async def quick() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent.append(message["status"])

        waiting = asyncio.create_task(slots(scope(), slow, send))
        await asyncio.sleep(0)
        await slots(scope(), quick, send)
        assert (sent, waiting.done()) == ([200], False)
        body.set()
        await waiting

    asyncio.run(run())
    assert sent == [200, 200]


def test_piece_of_a_body_is_handled_with_a_slot() -> None:
    """Uploads of one owner write in no more threads than its slots: the piece of a second one waits for that of the first."""
    under_way, most = 0, 0

    async def run() -> None:
        arrived = asyncio.Event()

        async def app(_: Scope, receive: Receive, send: Send) -> None:
            nonlocal under_way, most
            more = True
            while more:
                more = (await receive())["more_body"]
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(0.01)  # writes
                under_way -= 1
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        def client() -> Receive:
            left = 3

            async def receive() -> Message:
                nonlocal left
                await arrived.wait()
                await asyncio.sleep(0)
                left -= 1
                return {"type": "http.request", "body": b"x", "more_body": left > 0}

            return receive

        async def send(message: Message) -> None:
            pass

        slots = RequestSlots(app, Shares(2), refusal)
        uploads = [asyncio.create_task(slots(scope(), client(), send)) for _ in range(6)]
        await asyncio.sleep(0.01)
        arrived.set()
        await asyncio.gather(*uploads)

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
    assert (under_way, most) == (0, 2)


def test_slot_goes_back_to_whom_it_was_taken_from() -> None:
    """Also where the owner becomes known, or the answer begins, while the request waits for it."""

    async def run() -> None:
        slots = Slots(1)
        await slots.take("address", PATIENCE)
        slot = RequestSlot(slots, "address", lambda _: None)
        waiting = asyncio.create_task(slot.take())
        await asyncio.sleep(0)
        slot.identify("acme")
        await asyncio.sleep(0)
        slots.release("address")
        await waiting
        assert (slots.held("address"), slots.held("owner:acme")) == (1, 0)
        slot.release()
        assert (slots.held("address"), slots.held("owner:acme")) == (0, 0)
        await slots.take("owner:acme", PATIENCE)
        waiting = asyncio.create_task(slot.take())
        await asyncio.sleep(0)
        slot.answered()
        slots.release("owner:acme")
        await waiting
        assert slots.held("owner:acme") == 0

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_answer_under_way_takes_no_slot() -> None:
    """Whoever streams an answer also listens for the end of the connection, and hears of the request's empty body first."""
    ended, sent = asyncio.Event(), list[int]()

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        await ended.wait()

    async def run() -> None:
        slots = RequestSlots(app, Shares(1), refusal)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message["status"])

        streams = [asyncio.create_task(slots(scope(), receive, send)) for _ in range(2)]
        while len(sent) < len(streams):
            await asyncio.sleep(0)
        ended.set()
        await asyncio.gather(*streams)

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
    assert sent == [200, 200]


def test_slots_serve_who_waits_in_order_of_coming() -> None:
    """Nobody who comes later overtakes; one key's waiters do not keep out another's."""
    order: list[str] = []

    async def wait(slots: Slots, key: str, name: str) -> None:
        await slots.take(key, PATIENCE)
        order.append(name)

    async def run() -> None:
        slots = Slots(1, 2)
        await slots.take("a", PATIENCE)
        waiting = [asyncio.create_task(wait(slots, "a", name)) for name in ("a2", "a3")]
        await asyncio.sleep(0)
        await wait(slots, "b", "b1")
        for _ in waiting:
            slots.release("a")
            await asyncio.sleep(0)
        slots.release("a")
        slots.release("b")
        assert (slots.held("a"), slots.held("b")) == (0, 0)

    asyncio.run(run())
    assert order == ["b1", "a2", "a3"]


def test_slots_that_nobody_gives_back_are_not_waited_for_for_ever() -> None:
    """Whoever gave up is not served later."""

    async def run() -> None:
        slots = Slots(1)
        await slots.take("a", PATIENCE)
        with pytest.raises(TimeoutError):
            await slots.take("a", 0.01)
        slots.release("a")
        assert slots.held("a") == 0
        await slots.take("a", 0.01)

    asyncio.run(run())


def scope() -> Scope:
    return {
        "type": "http", "method": "POST", "path": "/x", "query_string": b"", "headers": [],
        "client": ("192.0.2.1", 1),
    }  # fmt: skip


def refusal(_: Request, error: DomainError) -> Response:
    raise AssertionError(error)
