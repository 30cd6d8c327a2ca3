"""Admission control: limits how many requests of one owner use worker threads, before a thread is taken.

All requests of a process share its worker threads, and one request can hold a thread for minutes: while bytes are hashed, or
while the store or the database is slow. Each owner has a share of the threads. When the share is used up, further requests of
that owner wait on the event loop, first in, first out, and are refused (server.busy) after a few seconds.

Only its token tells which owner a request belongs to, and looking up a token takes a thread too. Therefore the owner of recently
valid credentials is cached. The cache is used for admission only: authentication asks the database each time. A request with
unknown credentials counts for the client's address until it is authenticated; from then on it counts for its owner.

A request holds a slot from its head to the head of its answer, except while it waits for the client: a slow upload or a slow
download does not use up its owner's share. Each piece of an upload is handled with a slot, so that all uploads of an owner
together write in no more threads than its share. Downloads that compute or read ahead are limited separately, by places.
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
from app.http.slots import Slots
from app.services.access.rate_limits import network

PATIENCE_SECONDS = 5.0  # how long a request waits for a slot
BODY_PATIENCE_SECONDS = 30.0  # how long the next piece of a body waits for one: a refusal would waste the bytes sent so far
REMEMBERED, REMEMBERED_SECONDS = 10_000, 60.0  # size and lifetime of the cache of credentials
UNTHREADED = frozenset({"/healthz", "/readyz"})  # need no worker thread, and must answer even if all slots are taken


_CURRENT: ContextVar["RequestSlot | None"] = ContextVar("request_slot", default=None)


@dataclass(frozen=True)
class Shares:
    """How many requests of one owner, or of one client address if the owner is not known, may use threads at once."""

    requests: int


class RequestSlot:
    """The slot of one request; it can be released and taken again while the request runs."""

    def __init__(self, slots: Slots, key: str, learn: Callable[[str], None]) -> None:
        self._slots, self._key, self._learn = slots, key, learn
        self._loop = asyncio.get_running_loop()
        self._held: str | None = None  # the key under which the slot is held
        self._is_answered = False

    async def take(self, seconds: float | None = None) -> None:
        """Takes the slot, unless it is already held or the answer has begun.

        Args:
            seconds: how long to wait; `PATIENCE_SECONDS` by default.

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
        else:  # the answer began in the meantime
            self._slots.release(key)

    def release(self) -> None:
        """Releases the slot, if it is held."""
        if self._held is not None:
            key, self._held = self._held, None
            self._slots.release(key)

    def answered(self) -> None:
        """Releases the slot for good: all that remains is to send the answer."""
        self._is_answered = True
        self.release()

    def identify(self, owner: str) -> None:
        """Sets the owner of the request after it was authenticated. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._identified, f"owner:{owner}")

    def _identified(self, key: str) -> None:
        # If the owner holds all of its slots, this slot stays with the address, so both together never exceed two shares.
        if self._held is None:
            self._key = key
        elif self._held != key and self._slots.move(self._held, key):
            self._key = self._held = key
        self._learn(key)


class RequestSlots:
    """Pure ASGI middleware; `scope["state"]["slot"]` is the `RequestSlot` of a request.

    Args:
        app: the application that requests are admitted to.
        shares: how many requests may use threads at once.
        answer: creates the response for a refused request.
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
    """A cache of the owners of credentials, learned from their last requests."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._first: dict[bytes, asyncio.Event] = {}

    async def key_of(self, credentials: bytes, address: str) -> str:
        """Returns the key of the owner of credentials; for the first request with unknown credentials, the address.

        Further requests with the same unknown credentials wait until the first one was authenticated. Otherwise all of them would
        count for the address instead of their owner.

        Raises:
            TimeoutError: the authentication of the first request took too long.
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
        """Caches the owner of credentials."""
        if credentials:
            self._known[credentials] = time.monotonic(), key
            self._known.move_to_end(credentials)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            self.settle(credentials)

    def forget(self, credentials: bytes) -> None:
        """Removes credentials that are no longer valid."""
        self._known.pop(credentials, None)

    def settle(self, credentials: bytes) -> None:
        """Wakes the requests that wait for the first request with the same credentials."""
        if first := self._first.pop(credentials, None):
            first.set()


class _Body:
    """Receives a request body. The slot is released while waiting for the client, and taken again when a piece has arrived."""

    def __init__(self, receive: Receive, slot: RequestSlot) -> None:
        self._receive, self._slot, self._is_whole = receive, slot, False

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        arriving = asyncio.ensure_future(self._receive())
        try:
            await asyncio.sleep(0)  # lets a piece that has already arrived be returned at once
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
    """Releases the slot of the current request before it waits for a place or a slot of another kind."""
    if slot := _CURRENT.get():
        slot.release()


async def retake_current() -> None:
    """Takes the slot of the current request again, after `release_current` and before it continues in a worker thread.

    Raises:
        DomainError: server.busy.
    """
    if slot := _CURRENT.get():
        await slot.take()


@asynccontextmanager
async def bounded(request: Request, slots: Slots, key: str, what: str, seconds: float) -> AsyncIterator[RequestSlot]:
    """Exchanges the slot of a request for a slot of another kind of work, which has its own limit.

    Yields the request's own slot, so that it can be taken again within the block.

    Args:
        request: its slot is released.
        slots: the slots for this kind of work.
        key: the owner of the work.
        what: the kind of work, for the error message.
        seconds: how long to wait for a slot.

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
    """Returns a digest of the credentials of a request; empty if it has none."""
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    if not given and b"signed=" in scope["query_string"]:
        given = scope["query_string"]
    return hashlib.sha256(given).digest() if given else b""


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return f"address:{network(client[0]) if client else ''}"
