"""Live streams of events: one reader per process, in order and exactly once, for those who may see them and no longer."""

import datetime as dt
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import event, make_url

from app.api.event_streams import message
from app.db.base import now
from app.domain.events.patches import PatchChanged
from app.domain.principal import Principal
from app.services.draining import Draining
from app.services.events.feed import QUEUE, EventFeed, StreamLimits, Subscription
from tests.support.event_streams import event_stream, latest_cursor
from tests.support.fixtures import on_postgresql
from tests.support.http_server import serving
from tests.support.postgres import Postgres
from tests.support.registry import Caller, Service, refused, unique
from tests.support.service_process import until

PLENTY = StreamLimits(total=1000, each=1000, seconds=3600)


def reading(service: Service, **limits: Any) -> tuple[EventFeed, Draining]:
    """A feed on a registry that is started, without HTTP."""
    draining = Draining()
    return EventFeed(service.runtime.read, draining, StreamLimits(**{**vars(PLENTY), **limits}), message), draining


def principal_of(caller: Caller) -> Principal:
    said = caller.get("/whoami").json()
    return Principal(said["owner"], frozenset(said["scopes"]), said["token"])


def ids(messages: list[str]) -> list[int]:
    return [int(found) for found in re.findall(r"^id: (\d+)$", "".join(messages), re.MULTILINE)]


def caught_up(feed: EventFeed, subscription: Subscription) -> list[int]:
    """Reads pages until a stream is live; their ids."""
    found: list[int] = []
    while not subscription.is_live:
        found += ids(feed.catch_up(subscription))
    return found


@contextmanager
def statements(service: Service) -> Iterator[list[str]]:
    """The statements that a registry runs within the block."""
    found: list[str] = []
    with service.runtime.read() as uow:
        engine = uow.session.get_bind()
    listen = (engine, "before_cursor_execute", lambda _c, _cur, text, *_: found.append(text))
    event.listen(*listen)
    try:
        yield found
    finally:
        event.remove(*listen)


def test_many_idle_streams_cost_one_query_at_a_time(fresh: Callable[..., Service]) -> None:
    """Sixty streams of two owners: as many reads as the one poller makes, each of all that is new."""
    service = fresh()
    callers = [service.caller("acme"), service.caller("rival")]
    feed, draining = reading(service)
    held = [feed.subscribe(principal_of(caller), 0, lambda: None) for caller in callers for _ in range(30)]
    for subscription in held:
        caught_up(feed, subscription)
    with statements(service) as found:
        until(lambda: sum("FROM events" in text for text in found) >= 4)
        assert sum("FROM tokens" in text for text in found) <= 1
        assert len([text for text in found if "FROM events" in text]) == 4
    draining.begin()
    until(lambda: all(subscription.has_ended for subscription in held))


def test_stream_that_falls_behind_catches_up_in_order(fresh: Callable[..., Service]) -> None:
    """More events than a queue holds arrive while a client takes nothing: each comes once, in order, to it and to a quick one."""
    service = fresh()
    acme = service.caller("acme")
    feed, draining = reading(service)
    start = latest_cursor(acme)
    slow, quick = (feed.subscribe(principal_of(acme), start, lambda: None) for _ in range(2))
    assert caught_up(feed, slow) + caught_up(feed, quick) == []
    taken: list[int] = []
    for _ in range(3):
        with service.runtime.write() as uow:
            for _ in range(QUEUE // 2):
                uow.event(PatchChanged(), principal_of(acme), "acme", "acme/tone")
        count = len(taken) + QUEUE // 2
        while len(taken) < count:
            taken += until(lambda: ids(feed.take(quick)))
    assert taken == [e["id"] for e in pages(acme, start)]
    assert not slow.is_live
    found = ids(feed.take(slow))
    assert len(found) == QUEUE
    assert found + caught_up(feed, slow) == taken
    draining.begin()


def pages(caller: Caller, cursor: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := caller.get("/events", after=cursor, limit=500).json()["items"]:
        found += page
        cursor = page[-1]["id"]
    return found


def test_streams_begin_while_events_are_written(fresh: Callable[..., Service]) -> None:
    """Streams from the first event on that are opened one after another beside a writer: all get the same, each event once."""
    service = fresh()
    acme = service.caller("acme")
    feed, draining = reading(service)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with service.runtime.write() as uow:
                for _ in range(20):
                    uow.event(PatchChanged(), principal_of(acme), "acme", "acme/tone")

    writer = threading.Thread(target=write)
    writer.start()
    opened = []
    for _ in range(6):
        subscription = feed.subscribe(principal_of(acme), 0, lambda: None)
        opened.append((subscription, caught_up(feed, subscription)))
        time.sleep(0.3)
    stop.set()
    writer.join()
    expected = [e["id"] for e in pages(acme, 0)]
    for subscription, found in opened:
        until(lambda found=found, held=subscription: found.extend(next_of(feed, held)) or found[-1] == expected[-1])
        assert found == expected
    draining.begin()


def next_of(feed: EventFeed, subscription: Subscription) -> list[int]:
    found = ids(feed.take(subscription))
    return found if found or subscription.is_live else ids(feed.catch_up(subscription))


def test_grants_that_change_while_a_stream_is_open_count_at_once(fresh: Callable[..., Service]) -> None:
    """Events of a family are read by whoever may see it when they are handed out."""
    service = fresh()
    assert service.admin.post("/families", {"name": "secret"}).status_code == 201
    service.admin.family("llama")
    acme = service.caller("acme")

    def name(upstream: str) -> None:
        assert service.admin.post("/families/secret/aliases", {"name": upstream}).status_code in (200, 201)

    with serving(service) as url, event_stream(url, acme.token, latest_cursor(acme)) as messages:

        def seen() -> list[tuple[str, str]]:
            """What came until now: up to an event of its own, which comes last."""
            last = acme.patch("acme", unique("patch"))
            found = itertools.takewhile(lambda m: m["data"]["subject"] != last, messages)
            return [(m["event"], m["data"]["data"].get("name")) for m in found]

        name("org/before")
        assert seen() == []
        assert service.admin("PUT", "/families/secret/grants/acme").status_code == 200
        name("org/while")
        assert seen() == [("family.granted", None), ("family.named", "org/while")]
        assert service.admin("DELETE", "/families/secret/grants/acme").status_code == 200
        name("org/after")
        assert seen() == [("family.withdrawn", None)]


def test_streams_of_an_owner_and_in_all_have_places(fresh: Callable[..., Service]) -> None:
    """What is too much is told to come later; a stream that ends gives its place back."""
    service = fresh(event_streams=3, event_streams_per_owner=2)
    acme, rival = service.caller("acme"), service.caller("rival")

    def refusal(caller: Caller, url: str) -> dict[str, Any]:
        asked = {"Authorization": f"Bearer {caller.token}", "Accept": "text/event-stream"}
        answer = httpx.get(f"{url}/api/v1/events", headers=asked)
        assert int(answer.headers["Retry-After"]) > 0
        return refused(answer, 503, "server.busy")

    with serving(service) as url, ExitStack() as stack:
        with event_stream(url, acme.token, 0), event_stream(url, acme.token, 0):
            assert "of acme" in refusal(acme, url)["detail"]
            stack.enter_context(event_stream(url, rival.token, 0))
            assert "3" in refusal(rival, url)["detail"]

        def again() -> bool:
            """Whether a closed connection's place is free."""
            try:
                stack.enter_context(event_stream(url, acme.token, 0))
            except AssertionError:
                return False
            return True

        until(again)


def test_stream_ends_after_its_longest_life(fresh: Callable[..., Service]) -> None:
    """In order, so that clients connect again and go on by the id of the last message."""
    service = fresh(event_stream_seconds=1)
    acme = service.caller("acme")
    first, second = acme.patch("acme", "one", service.admin.family("llama")), acme.patch("acme", "two")
    with serving(service) as url:
        with event_stream(url, acme.token, 0) as messages:
            seen = list(messages)
        assert [m["data"]["subject"] for m in seen if m["event"] == "patch.created"] == [first, second]
        third = acme.patch("acme", "three")
        with event_stream(url, acme.token, None, **{"Last-Event-ID": seen[-1]["id"]}) as messages:
            assert [m["data"]["subject"] for m in messages] == [third]


def test_stream_of_a_token_that_expires_ends(fresh: Callable[..., Service]) -> None:
    """When it expires, not when tokens are checked the next time."""
    service = fresh()
    acme = service.caller("acme")
    feed, draining = reading(service)
    subscription = feed.subscribe(principal_of(acme), 0, lambda: None)
    caught_up(feed, subscription)
    with statements(service) as found:
        until(lambda: [text for text in found if "FROM tokens" in text])  # they were checked now
        service.execute("UPDATE tokens SET expires_at = :moment WHERE owner = 'acme'", moment=now() + dt.timedelta(seconds=3))
        assert feed.catch_up(subscription) == []
        found.clear()
        until(lambda: subscription.has_ended)
        assert [text for text in found if "FROM tokens" in text] == []
    draining.begin()


@on_postgresql
def test_stream_survives_a_database_that_is_away(
    fresh: Callable[..., Service], server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on with what happened after the database is back; the log has lines and no traceback."""
    service = fresh()
    acme = service.caller("acme")
    feed, draining = reading(service)
    subscription = feed.subscribe(principal_of(acme), latest_cursor(acme), lambda: None)
    caught_up(feed, subscription)
    name = make_url(service.settings.database_url).database
    with caplog.at_level(logging.WARNING), away(server, str(name)):
        until(lambda: [record for record in caplog.records if "database.unreachable" in record.getMessage()])
    family = until(lambda: service.admin.post("/families", {"name": "back", "readers": ["*"]}).status_code == 201)
    assert family
    until(lambda: "family.created" in "".join(feed.take(subscription)))
    assert [record for record in caplog.records if record.exc_info] == []
    draining.begin()


@contextmanager
def away(server: Postgres, name: str) -> Iterator[None]:
    """A database that nobody can connect to within the block."""
    server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    server.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        yield
    finally:
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


def test_streams_end_when_the_process_drains(fresh: Callable[..., Service]) -> None:
    """Those that are open end, and no others begin."""
    service = fresh()
    acme = service.caller("acme")
    with serving(service) as url, event_stream(url, acme.token, 0) as messages:
        next(messages)
        service.runtime.draining.begin()
        assert list(messages) == []
        asked = {"Authorization": f"Bearer {acme.token}", "Accept": "text/event-stream"}
        refused(httpx.get(f"{url}/api/v1/events", headers=asked), 503, "server.unready")
