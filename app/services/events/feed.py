"""Live streams of events. One thread per process reads each new event once and fans it out to every stream that may see it.

A stream starts at a cursor. Until it has caught up it reads pages of its own (`catch_up`); from then on the poller fills its
queue. A slow stream whose queue is full leaves the fan-out and catches up again by reading pages. Ids of events become visible
in order (`app.db.events.append`), so no stream misses an event or gets one twice.
"""

import datetime as dt
import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from app.db import events as rows
from app.db import families, tokens
from app.db.base import now
from app.db.events import Event
from app.db.families import EVERYBODY
from app.domain.errors import DomainError
from app.domain.events.access import TokenRevoked, TokenRotated
from app.domain.principal import Principal
from app.services.draining import Draining
from app.services.events import events
from app.services.unit_of_work import Begin

POLL_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0  # between retries while the database does not answer
TOKEN_CHECK_SECONDS = 15.0
# After an event of one of these kinds, tokens are checked again before any event is handed out.
TOKEN_ENDS = frozenset({TokenRevoked.spec.kind, TokenRotated.spec.kind})
PAGE = 100  # events that a stream reads at once while it catches up
BATCH = 500  # events that the poller reads at once
QUEUE = 500  # messages that wait for one stream

log = logging.getLogger("portllm.events")


@dataclass(frozen=True)
class StreamLimits:
    """How many streams one process may have open at once, in total and per owner, and how many seconds each may last."""

    total: int
    each: int
    seconds: float


@dataclass(eq=False)
class Subscription:
    """One open stream; only its feed changes it.

    Attributes:
        principal: The reader of the stream.
        cursor: All events up to this id were handed out, or passed over because the principal may not see them.
        wake: Called from any thread when there are messages or the stream has ended.
        deadline: When the stream ends, on the monotonic clock.
        expires_at: When its token expires, as of the last check.
        queue: Messages that wait to be sent.
        is_live: Whether the poller fills the queue; otherwise the stream has to catch up.
        has_ended: Whether the stream must not send any more.
    """

    principal: Principal
    cursor: int
    wake: Callable[[], None]
    deadline: float
    expires_at: dt.datetime | None = None
    queue: deque[str] = field(default_factory=deque)
    is_live: bool = False
    has_ended: bool = False


class EventFeed:
    """The streams of one process and the polling thread, which runs only while there are streams.

    Args:
        read: Opens a read-only unit of work.
        draining: All streams end when it is set.
        limits: How many streams may be open, and for how long.
        message: Formats an event for an admin or for other readers.
    """

    def __init__(self, read: Begin, draining: Draining, limits: StreamLimits, message: Callable[[Event, bool], str]) -> None:
        self._read, self._draining, self._limits, self._message = read, draining, limits, message
        self._lock = threading.Lock()
        self._open = set[Subscription]()
        self._is_polling = False
        self._head: int | None = None  # the poller has handed out all events up to this id
        self._next_check = 0.0

    def subscribe(self, principal: Principal, cursor: int, wake: Callable[[], None]) -> Subscription:
        """Opens a stream that starts after a cursor; the caller must close it.

        Raises:
            DomainError: server.busy, when too many streams are open; server.unready, when the process is about to stop.
        """
        subscription = Subscription(principal, cursor, wake, time.monotonic() + self._limits.seconds)
        with self._lock:
            if self._draining.is_set:
                raise DomainError("server.unready", reason="the process is about to stop")
            self._require_place(principal.owner)
            if not self._is_polling:  # started first: if the thread cannot start, no stream is left without a poller
                threading.Thread(target=self._poll_while_open, name="events", daemon=True).start()
                self._is_polling = True
            self._open.add(subscription)
        return subscription

    def close(self, subscription: Subscription) -> None:
        """Ends a stream and frees its slot."""
        with self._lock:
            subscription.has_ended = True
            self._open.discard(subscription)

    def take(self, subscription: Subscription) -> list[str]:
        """Takes the waiting messages of a stream out of its queue and returns them, oldest first."""
        with self._lock:
            found = list(subscription.queue)
            subscription.queue.clear()
            return found

    def catch_up(self, subscription: Subscription) -> list[str]:
        """Reads the next page for a stream whose queue is empty, and returns its messages; after the last page it is live.

        Raises:
            DomainError: database.unreachable, database.busy.
        """
        principal = subscription.principal
        with self._read() as uow:
            ends = tokens.valid(uow.session, [principal.token])
            newest = rows.last(uow.session)
            found = events.after(uow, principal, subscription.cursor, PAGE) if ends else ()
        if not ends:
            self.close(subscription)
            return []
        with self._lock:
            subscription.expires_at = ends[principal.token]
            if found:
                subscription.cursor = found[-1].id
            if len(found) < PAGE:  # nothing else up to `newest` concerns this stream
                subscription.cursor = max(subscription.cursor, newest)
                if self._head is None:
                    self._head = newest
                subscription.is_live = self._head <= newest
        return [self._message(event, principal.is_admin) for event in found]

    def status(self, newest: int) -> tuple[int, int]:
        """Returns how many streams are open, and by how many events the slowest one is behind.

        Args:
            newest: the id of the last event.
        """
        with self._lock:
            positions = [subscription.cursor for subscription in self._open if not subscription.is_live]
            if self._open and self._head is not None:
                positions.append(self._head)
            return len(self._open), max(0, newest - min(positions, default=newest))

    def _require_place(self, owner: str) -> None:
        if len(self._open) >= self._limits.total:
            raise DomainError("server.busy", limit=self._limits.total, what="event streams")
        if sum(subscription.principal.owner == owner for subscription in self._open) >= self._limits.each:
            raise DomainError("server.busy", limit=self._limits.each, what=f"event streams of {owner}", owner=owner)

    def _poll_while_open(self) -> None:
        pause = POLL_SECONDS
        while not self._draining.wait_in_thread(pause):
            with self._lock:
                if not self._open:
                    self._is_polling, self._head = False, None
                    return
            try:
                self._poll()
                pause = POLL_SECONDS
            except DomainError:  # already logged by `app.db.errors`
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            except Exception:  # a defect must not silence all streams for good
                log.exception("new events could not be read")
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        self._end(lambda _: True)

    def _poll(self) -> None:
        """Ends the streams past their deadline and hands out all new events."""
        monotonic, present = time.monotonic(), now()
        self._end(lambda held: held.deadline <= monotonic or (held.expires_at is not None and held.expires_at <= present))
        is_due = monotonic >= self._next_check
        count = self._read_batch(is_due)
        if is_due:
            self._next_check = monotonic + TOKEN_CHECK_SECONDS
        while count == BATCH:
            count = self._read_batch(False)

    def _read_batch(self, check_tokens: bool) -> int:
        with self._lock:
            head, held = self._head, {subscription.principal.token for subscription in self._open}
        with self._read() as uow:
            found = rows.after(uow.session, head, None, BATCH) if head is not None else ()
            if check_tokens := check_tokens or any(event.kind in TOKEN_ENDS for event in found):
                valid = tokens.valid(uow.session, held)
            named = {event.family for event in found if event.family is not None}
            readers = families.readers(uow.session, named) if named else {}
        if check_tokens:
            self._note_tokens(held, valid)
        if found:
            self._hand_out(found, readers)
        return len(found)

    def _note_tokens(self, held: set[str], valid: Mapping[str, dt.datetime | None]) -> None:
        """Ends the streams of tokens in `held` that are no longer valid; tokens of streams opened since are not in `held`."""
        self._end(lambda subscription: subscription.principal.token in held - valid.keys())
        with self._lock:
            for subscription in self._open:
                subscription.expires_at = valid.get(subscription.principal.token, subscription.expires_at)

    def _hand_out(self, found: Sequence[Event], readers: Mapping[str, set[str]]) -> None:
        """Puts events into the queues of all live streams that may see them."""
        woken = set[Subscription]()
        with self._lock:
            live = [subscription for subscription in self._open if subscription.is_live]
            admins = [subscription for subscription in live if subscription.principal.is_admin]
            by_owner = defaultdict[str, list[Subscription]](list)
            for subscription in live:
                by_owner[subscription.principal.owner].append(subscription)
            for event in found:
                concerned = {event.owner}
                if event.family is not None and rows.is_for_readers(event):
                    concerned |= readers.get(event.family, set())
                chosen = live if EVERYBODY in concerned else chain(admins, *(by_owner[owner] for owner in concerned))
                woken.update(self._put(event, chosen))
            self._head = found[-1].id
        for subscription in woken:
            subscription.wake()

    def _put(self, event: Event, subscriptions: Iterable[Subscription]) -> Iterator[Subscription]:
        """Puts an event into queues and yields the streams that got it.

        Streams that have the event already are skipped; a stream whose queue is full has to catch up.
        """
        texts = dict[bool, str]()
        for subscription in subscriptions:
            if not subscription.is_live or event.id <= subscription.cursor:
                continue
            if len(subscription.queue) >= QUEUE:
                subscription.is_live = False
                continue
            is_admin = subscription.principal.is_admin
            if is_admin not in texts:
                texts[is_admin] = self._message(event, is_admin)
            subscription.queue.append(texts[is_admin])
            subscription.cursor = event.id
            yield subscription

    def _end(self, is_over: Callable[[Subscription], bool]) -> None:
        with self._lock:
            ended = [subscription for subscription in self._open if is_over(subscription)]
            for subscription in ended:
                subscription.has_ended = True
                self._open.discard(subscription)
        for subscription in ended:
            subscription.wake()
