"""The unit of work: one transaction, and what a use case may touch within it. Holds the only commit."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import exc, inspect
from sqlalchemy.orm import Session, sessionmaker

from app.db import blob_refs, events, tokens
from app.db.base import now
from app.db.errors import CollisionError, translated
from app.db.events import Event
from app.db.locks import BYTES, advisory_lock_shared
from app.domain.errors import DomainError
from app.domain.events.base import Event as TypedEvent
from app.domain.events.base import FamilyEvent, OwnerEvent
from app.domain.principal import INSTALLATION, Principal
from app.services.tools import Tools

ATTEMPTS = 3
# How often handlers may record events because of events; more is taken for an endless loop.
MAX_ROUNDS = 5

log = logging.getLogger("portllm.uow")

Value = TypeVar("Value")
Kind = TypeVar("Kind", bound=TypedEvent)


@dataclass(frozen=True)
class Recorded(Generic[Kind]):
    """An event as its handlers get it."""

    event: Kind
    principal: Principal
    owner: str
    subject: str


# What else happens in the transaction that records an event, by kind; see `app.composition`. Handlers run in the given order.
Handler = Callable[["UnitOfWork", Recorded[Any]], None]
Handlers = Mapping[type[TypedEvent], Sequence[Handler]]


@dataclass
class UnitOfWork:
    """One transaction with its tools."""

    session: Session
    tools: Tools
    handlers: Handlers = field(default_factory=dict)
    _recorded: list[Recorded[Any]] = field(default_factory=list)
    _events: list[Event] = field(default_factory=list)
    _after_commit: list[Callable[[], object]] = field(default_factory=list)

    def add(self, row: Any) -> None:
        self.session.add(row)
        self.session.flush()

    def lock(self, row: Any, shared: bool = False) -> None:
        """Waits until no other transaction changes a row, reads it again, and lets nobody change it until this one ends.

        Called before a row is judged that is changed after; `shared` where it is judged only. On SQLite, where one
        transaction writes at a time, it only reads the row again.

        Raises:
            CollisionError: the row was deleted meanwhile.
        """
        columns = [column.key for column in inspect(row).mapper.column_attrs]
        # Not so strong that rows which refer to this one would have to wait for it.
        strength = {"read": True} if shared else {"key_share": True}
        try:
            self.session.refresh(row, columns, with_for_update=strength)
        except exc.InvalidRequestError:
            raise CollisionError from None

    def hold_gc(self) -> None:
        """Called before this transaction looks at bytes that it will reference: none are removed until it ends."""
        advisory_lock_shared(self.session, BYTES)

    def expect(self, row: Any, row_version: int | None, what: str) -> None:
        """Raises `DomainError` (request.changed) where the caller read another state of a locked row; None: it does not care."""
        if row_version is not None and row_version != row.row_version:
            raise DomainError("request.changed", what=what)

    def event(self, event: OwnerEvent, principal: Principal, owner: str, subject: str) -> None:
        """Records what happened to something of an owner; written at the end of the transaction, with the fact or not at all."""
        self._record(Recorded(event, principal, owner, subject))

    def family_event(self, event: FamilyEvent, principal: Principal, family: str, release: str | None = None) -> None:
        """Records what happened to a family, or to a release of it, as `event` does."""
        self._record(Recorded(event, principal, INSTALLATION, f"{family}/{release}" if release else family), family)

    def _record(self, found: Recorded[Any], family: str | None = None) -> None:
        event, principal = found.event, found.principal
        self._recorded.append(found)
        self._events.append(
            Event(
                at=now(), kind=event.spec.kind, owner=found.owner, subject=found.subject, actor=principal.owner,
                data=event.data(), family=family, token=principal.token, address=principal.address, request=principal.request,
            )
        )  # fmt: skip

    def after_commit(self, action: Callable[[], object]) -> None:
        """Registers clean-up to run after the commit. It may be lost (crash, error), so correctness must not depend on it."""
        self._after_commit.append(action)

    def write_events(self) -> None:
        """Runs the handlers of what was recorded, writes the references to blobs, then the events, which makes others wait.

        A request is authenticated before its body is read and its files are verified, which may take minutes, so its token may
        have been revoked since. Asked before the first flush: a request may revoke its own token.

        Raises:
            DomainError: token.missing, if a token that an event names was revoked.
        """
        if self._events and tokens.any_is_revoked(self.session, {event.token for event in self._events if event.token}):
            raise DomainError("token.missing")
        self.handle_events()
        blob_refs.write(self.session, self.tools.artifacts.read_manifest)
        if self._events:
            events.append(self.session, self._events)

    def handle_events(self) -> None:
        """Runs the handlers of what was recorded, until they record nothing more. Call it early to use what they write."""
        for _ in range(MAX_ROUNDS):
            self.session.flush()
            if not self._recorded:
                return
            found, self._recorded = self._recorded, []
            for one in found:
                for handler in self.handlers.get(type(one.event), ()):
                    handler(self, one)
        raise RuntimeError(f"handlers of events go on recording events after {MAX_ROUNDS} rounds")

    def committed(self) -> None:
        """Runs the registered clean-up. The transaction is already committed, so errors are only logged."""
        for action in self._after_commit:
            try:
                action()
            except Exception:  # any error: maintenance repeats the clean-up
                log.exception("clean-up after a commit failed")


@contextmanager
def unit_of_work(
    sessions: sessionmaker[Session], tools: Tools, handlers: Handlers = MappingProxyType({})
) -> Iterator[UnitOfWork]:  # fmt: skip
    """Commits when the block ends, rolls back when it raises.

    Raises:
        CollisionError, DomainError: what the database answered, see `app.db.errors.translated`.
    """
    with translated(), sessions() as session:
        uow = UnitOfWork(session, tools, handlers)
        yield uow
        uow.write_events()
        session.commit()
    uow.committed()


# Opens a unit of work.
Begin = Callable[[], AbstractContextManager[UnitOfWork]]


class UnitsOfWork(Protocol):
    """A running registry, as use cases see it that need more than one transaction; the runtime is one."""

    tools: Tools

    def read(self) -> AbstractContextManager[UnitOfWork]:
        """Opens a read-only unit of work."""

    def write(self) -> AbstractContextManager[UnitOfWork]:
        """Opens a unit of work that may write, and commits it at the end."""

    def exclusive(self, name: str, what: str) -> AbstractContextManager[None]:
        """Holds a named lock across all replicas, for work that spans several transactions.

        It never blocks, because a waiting request would occupy a thread that other requests need.

        Args:
            name: the name of the lock.
            what: the subject of the work, for the error message; it begins a sentence.

        Raises:
            DomainError: request.under_way, when the lock is already held.
        """


def run_with_retry(begin: Callable[[], AbstractContextManager[UnitOfWork]], work: Callable[[UnitOfWork], Value]) -> Value:
    """Runs a use case in a transaction of its own, and again where another transaction wrote the same thing first.

    Raises:
        CollisionError: that happened three times.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            with begin() as uow:
                return work(uow)
        except CollisionError:
            continue
    with begin() as uow:
        return work(uow)
