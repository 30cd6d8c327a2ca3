"""Admission control: how many requests of one owner may be in worker threads, decided before a thread is taken.

All requests of a process share its worker threads, and one may hold a thread for minutes: while bytes are hashed, while the store
or the database is slow. Every owner has a share of them; who has all of it waits on the event loop, in the order of coming,
and is refused (server.busy) after a few seconds.

Whose a request is only its token tells, and looking that up takes a thread too. So credentials that were good a moment ago are
remembered, for admission alone: authentication asks the database each time. Credentials that are not known count for the client's
address until they are; then the request counts for its owner.

A slot is held from the head of a request to the head of its answer, but not while the client is waited for: neither a slow upload
nor a slow download takes from its owner's share. Each piece of an upload is handled with a slot, so that all uploads of an owner
together write in no more threads than its share. Downloads that compute or read ahead have places of their own.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

from fastapi import Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain.errors import DomainError
from app.services.rates import network
from app.wire.slots import Slots

PATIENCE_SECONDS = 5.0  # that a request waits for a slot
BODY_PATIENCE_SECONDS = 30.0  # that the next piece of a body waits for it: a refusal would waste what was sent
REMEMBERED, REMEMBERED_SECONDS = 10_000, 60.0  # credentials
UNTHREADED = frozenset({"/healthz", "/readyz"})  # need no worker thread, and must answer whatever the others do


_CURRENT: ContextVar["RequestSlot | None"] = ContextVar("request_slot", default=None)


@dataclass(frozen=True)
class Shares:
    """How many requests of one owner, or of one address that is not known to speak for any, may be in threads at once."""

    requests: int


class RequestSlot:
    """The slot of one request; may be given back and taken again while the request goes on."""

    def __init__(self, slots: Slots, key: str, learn: Callable[[str], None]) -> None:
        self._slots, self._key, self._learn = slots, key, learn
        self._loop = asyncio.get_running_loop()
        self._held: str | None = None  # the key that the slot was taken for
        self._is_answered = False

    async def take(self, seconds: float | None = None) -> None:
        """Takes the slot, unless it is held, or the answer has begun.

        Args:
            seconds: how long it waits; `PATIENCE_SECONDS` by default.

        Raises:
            DomainError: server.busy.
        """
        if self._held is not None or self._is_answered:
            return
        key = self._key
        try:
            await self._slots.take(key, PATIENCE_SECONDS if seconds is None else seconds)
        except TimeoutError:
            raise _busy(self._slots, key) from None
        if self._held is None and not self._is_answered:
            self._held = key
        else:  # while this waited, the answer began
            self._slots.release(key)

    def release(self) -> None:
        """Gives the slot back, if it is held."""
        if self._held is not None:
            key, self._held = self._held, None
            self._slots.release(key)

    def answered(self) -> None:
        """Gives the slot back for good: what is left is to send the answer."""
        self._is_answered = True
        self.release()

    def identify(self, owner: str) -> None:
        """Says whose request it is, from any thread, once its credentials proved good."""
        self._loop.call_soon_threadsafe(self._identified, f"owner:{owner}")

    def _identified(self, key: str) -> None:
        # Where the owner has all of its slots, this one stays the address's: so both together never have more than two shares.
        if self._held is None:
            self._key = key
        elif self._held != key and self._slots.move(self._held, key):
            self._key = self._held = key
        self._learn(key)


class RequestSlots:
    """Pure ASGI middleware; `scope["state"]["slot"]` is the `RequestSlot` of a request.

    Args:
        app: what is admitted to.
        shares: how many requests.
        answer: makes the response of a refusal.
    """

    def __init__(self, app: ASGIApp, shares: Shares, answer: Callable[[Request, DomainError], Response]) -> None:
        self._app, self._answer = app, answer
        self._slots, self._owners = Slots(shares.requests), _Owners()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTHREADED:
            await self._app(scope, receive, send)
            return
        credentials, address = _credentials(scope), _address(scope)
        try:
            key = await self._owners.key_of(credentials, address)
        except TimeoutError:
            await self._answer(Request(scope), _busy(self._slots, address))(scope, receive, send)
            return
        slot = RequestSlot(self._slots, key, partial(self._owners.learn, credentials))
        scope.setdefault("state", {})["slot"] = slot
        _CURRENT.set(slot)

        async def send_and_release(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 401:
                    self._owners.forget(credentials)
                slot.answered()
            await send(message)

        try:
            try:
                await slot.take()
            except DomainError as refusal:
                await self._answer(Request(scope), refusal)(scope, receive, send)
                return
            await self._app(scope, _Body(receive, slot).receive, send_and_release)
        finally:
            slot.release()
            if key == address:
                self._owners.settle(credentials)


class _Owners:
    """Whose credentials are, as far as their last requests told."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._first: dict[bytes, asyncio.Event] = {}

    async def key_of(self, credentials: bytes, address: str) -> str:
        """The owner's key. For the first request with credentials that are not known, the address; others with the same ones wait
        until it was found whose they are, or else one owner's requests would all pass as somebody unknown.

        Raises:
            TimeoutError: that took too long.
        """
        async with asyncio.timeout(PATIENCE_SECONDS):
            while credentials:
                moment, key = self._known.get(credentials, (0.0, ""))
                if key and time.monotonic() - moment < REMEMBERED_SECONDS:
                    return key
                if credentials not in self._first:
                    self._first[credentials] = asyncio.Event()
                    break
                await self._first[credentials].wait()
        return address

    def learn(self, credentials: bytes, key: str) -> None:
        """Remembers whose credentials are."""
        if credentials:
            self._known[credentials] = time.monotonic(), key
            self._known.move_to_end(credentials)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            self.settle(credentials)

    def forget(self, credentials: bytes) -> None:
        """Forgets credentials that are not good any more."""
        self._known.pop(credentials, None)

    def settle(self, credentials: bytes) -> None:
        """Lets those go on that wait for the first request with the same credentials."""
        if first := self._first.pop(credentials, None):
            first.set()


class _Body:
    """Receives a request's body: without its slot while the client is waited for, and with it when something has come."""

    def __init__(self, receive: Receive, slot: RequestSlot) -> None:
        self._receive, self._slot, self._is_whole = receive, slot, False

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        arriving = asyncio.ensure_future(self._receive())
        try:
            await asyncio.sleep(0)  # what has arrived already is given at once
            if not arriving.done():
                self._slot.release()
            message = await arriving
        finally:
            arriving.cancel()
        self._is_whole = not message.get("more_body", False)
        if message["type"] == "http.request":
            await self._slot.take(BODY_PATIENCE_SECONDS)
        return message


def release_current() -> None:
    """Gives the slot of the present request back, before it waits for a place that admits it to what it does."""
    if slot := _CURRENT.get():
        slot.release()


async def retake_current() -> None:
    """Takes the slot of the present request again, after `release_current` and before it goes on in a worker thread.

    Raises:
        DomainError: server.busy.
    """
    if slot := _CURRENT.get():
        await slot.take()


@asynccontextmanager
async def bounded(request: Request, slots: Slots, key: str, what: str, seconds: float) -> AsyncIterator[RequestSlot]:
    """A slot for work that is bounded beyond requests, in exchange for the request's own, which may be taken again within.

    Args:
        request: whose own slot that is.
        slots: for this kind of work.
        key: whose work it is.
        what: the work, for the sentence.
        seconds: how long it waits.

    Raises:
        DomainError: server.busy.
    """
    own: RequestSlot = request.state.slot
    own.release()
    try:
        await slots.take(key, seconds)
    except TimeoutError:
        raise DomainError("server.busy", limit=slots.each, what=f"{what} of {key}") from None
    try:
        yield own
    finally:
        slots.release(key)


def _busy(slots: Slots, key: str) -> DomainError:
    whose = key.removeprefix("owner:") if key.startswith("owner:") else "your address"
    return DomainError("server.busy", limit=slots.each, what=f"requests of {whose}")


def _credentials(scope: Scope) -> bytes:
    """A digest of what a request is authenticated by; empty where it brings nothing."""
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    if not given and b"signed=" in scope["query_string"]:
        given = scope["query_string"]
    return hashlib.sha256(given).digest() if given else b""


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return f"address:{network(client[0]) if client else ''}"
