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
# How many rounds of events handlers may cause by recording further events; more is treated as an endless loop.
MAX_ROUNDS = 5

log = logging.getLogger("portllm.uow")

Value = TypeVar("Value")
Kind = TypeVar("Kind", bound=TypedEvent)


@dataclass(frozen=True)
class Recorded(Generic[Kind]):
    """An event as it is passed to its handlers."""

    event: Kind
    principal: Principal
    owner: str
    subject: str


# Handlers run in the transaction that records an event, in the given order; registered by kind in `app.composition`.
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
        """Locks a row until this transaction ends, and reads it again; waits for transactions that are changing it.

        Call it before checking a row that will then be changed; with `shared`, before checking a row that will not be changed.
        On SQLite, where only one transaction writes at a time, it only reads the row again.

        Raises:
            CollisionError: the row was deleted meanwhile.
        """
        columns = [column.key for column in inspect(row).mapper.column_attrs]
        # The weakest lock that suffices: inserting rows that refer to this one need not wait for it.
        strength = {"read": True} if shared else {"key_share": True}
        try:
            self.session.refresh(row, columns, with_for_update=strength)
        except exc.InvalidRequestError:
            raise CollisionError from None

    def hold_gc(self) -> None:
        """Blocks the removal of bytes until this transaction ends. Call it before looking up bytes that it will reference."""
        advisory_lock_shared(self.session, BYTES)

    def expect(self, row: Any, row_version: int | None, what: str) -> None:
        """Raises `DomainError` (request.changed) if a locked row is not at the version that the caller read; None: no check."""
        if row_version is not None and row_version != row.row_version:
            raise DomainError("request.changed", what=what)

    def event(self, event: OwnerEvent, principal: Principal, owner: str, subject: str) -> None:
        """Records an event about an owner's object; it is written at the end of the transaction and commits with the change."""
        self._record(Recorded(event, principal, owner, subject))

    def family_event(self, event: FamilyEvent, principal: Principal, family: str, release: str | None = None) -> None:
        """Records an event about a family or one of its releases, see `event`."""
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
        """Runs the handlers of recorded events; writes the references to blobs, then the events, which blocks other writers.

        First checks again that the tokens are not revoked: a request is authenticated before its body is read and its files are
        verified, which may take minutes. This precedes the first flush, because a request may revoke its own token.

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
        """Runs the handlers of recorded events until they record no more. Call it early if you need the rows that they write."""
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
    """Opens a unit of work; commits it when the block ends, or rolls it back if the block raises.

    Raises:
        CollisionError, DomainError: errors of the database, see `app.db.errors.translated`.
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
    """Opens units of work, for use cases that need more than one transaction. The runtime implements it."""

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
