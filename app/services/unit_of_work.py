"""The unit of work: one transaction, and what a use case may touch within it. Holds the only commit."""

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import exc, inspect
from sqlalchemy.orm import Session, sessionmaker

from app.blobs.store import BlobStore
from app.core.arithmetic import Arithmetic
from app.db import events
from app.db.base import now
from app.db.errors import CollisionError, translated
from app.db.events import Event
from app.db.locks import BYTES, advisory_lock_shared
from app.domain.errors import DomainError
from app.domain.principal import INSTALLATION, Principal
from app.domain.quotas import Quota
from app.services.artifacts.artifacts import Artifacts
from app.services.read_slots import ReadSlots

ATTEMPTS = 3

log = logging.getLogger("portllm.uow")

Value = TypeVar("Value")


@dataclass(frozen=True)
class JobStatus:
    """A job as the engine knows it; times in milliseconds since 1970.

    Attributes:
        progress: see `app.jobs.child`; only while it runs.
        class_name: the class of workers that runs it, if known.
        attempt: how many times it was started.
        waiting_for: the class of workers that it waits for, if no live worker takes jobs of that class.
    """

    id: str
    state: str
    created_ms: int | None
    updated_ms: int | None
    progress: dict[str, Any] | None
    problem: dict[str, Any] | None
    class_name: str | None = None
    attempt: int = 0
    waiting_for: str | None = None


class JobQueue(Protocol):
    """What services ask of the job engine."""

    def enqueue(self, session: Session, job: str, kind: str, subject: str) -> None:
        """Writes the intent to run a job inside the session's transaction; the same id twice is one job."""

    def cancel(self, session: Session, job: str) -> bool:
        """Cancels a job inside the session's transaction; returns False if the job neither waits nor runs.

        A worker that runs it ends the job's process within seconds of the commit, and cannot record a result after it.
        """

    def status(self, job: str) -> JobStatus | None:
        """The state of one job."""

    def statuses(self, jobs: Sequence[str]) -> dict[str, JobStatus]:
        """Returns the states of those jobs that are known, by id, in one query."""

    def live(self, session: Session) -> set[str]:
        """Returns the ids of all jobs that wait or run, as the session's transaction sees them."""

    def waiting(self, session: Session, owner: str) -> int:
        """Returns how many jobs of an owner wait."""

    def served(self, session: Session) -> set[str]:
        """Returns the classes that have a live worker."""

    def finished_before(self, session: Session, moment: dt.datetime, limit: int) -> Sequence[str]:
        """Returns the ids of at most `limit` jobs that ended before a moment, the oldest first."""

    def delete(self, jobs: Sequence[str]) -> None:
        """Deletes everything that is recorded about jobs; must not be called inside a transaction that writes."""

    def page(
        self, session: Session, owner: str | None, kind: str | None, state: str | None, after: str | None, limit: int
    ) -> list[JobStatus]:
        """One page of jobs after the one with id `after`, newest first, one more than `limit`."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, in bytes and counts, and how much each owner may have for which nothing else was set."""

    patch_bytes: int
    patch_files: int
    page: int
    quota: Quota = field(default_factory=Quota)


@dataclass(frozen=True)
class Tools:
    """What use cases need beside the database; built once by the runtime.

    Attributes:
        checks: semaphore for verifying drafts and assessing ports.
        secret_keys: the first signs what we hand out and encrypts what we keep; all are believed, and decrypt.
    """

    blobs: BlobStore
    library: Artifacts
    jobs: JobQueue
    arithmetic: Callable[[], Arithmetic]
    allowed_roots: tuple[Path, ...]
    allowed_s3: tuple[str, ...]
    limits: Limits
    checks: ReadSlots
    secret_keys: tuple[bytes, ...] = field(repr=False)


@dataclass
class UnitOfWork:
    """One transaction with its tools."""

    session: Session
    tools: Tools
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

    def names_bytes(self) -> None:
        """Called before bytes are looked at that this transaction will name: none are swept until it ends."""
        advisory_lock_shared(self.session, BYTES)

    def expect(self, row: Any, row_version: int | None, what: str) -> None:
        """Raises `DomainError` (request.changed) where the caller read another state of a locked row; None: it does not care."""
        if row_version is not None and row_version != row.row_version:
            raise DomainError("request.changed", what=what)

    def event(self, kind: str, principal: Principal, owner: str, subject: str, /, **data: Any) -> None:
        """Says what happened; written at the end of the transaction, with the fact or not at all."""
        self._events.append(
            Event(
                at=now(), kind=kind, owner=owner, subject=subject, actor=principal.owner, data=data, token=principal.token,
                address=principal.address, request=principal.request,
            )
        )  # fmt: skip

    def family_event(self, kind: str, principal: Principal, family: str, release: str | None = None, /, **data: Any) -> None:
        """Says what happened to a family, or to a release of it: for those who may see the family."""
        self.event(kind, principal, INSTALLATION, f"{family}/{release}" if release else family, **data)
        self._events[-1].family = family

    def after_commit(self, action: Callable[[], object]) -> None:
        """Registers clean-up to run after the commit. It may be lost (crash, error), so correctness must not depend on it."""
        self._after_commit.append(action)

    def write_events(self) -> None:
        """Last of all, because whoever writes events makes others wait who want to."""
        self.session.flush()
        if self._events:
            events.append(self.session, self._events)

    def committed(self) -> None:
        """Runs the registered clean-up. The transaction is already committed, so errors are only logged."""
        for action in self._after_commit:
            try:
                action()
            except Exception:  # any error: maintenance repeats the clean-up
                log.exception("clean-up after a commit failed")


@contextmanager
def unit_of_work(sessions: sessionmaker[Session], tools: Tools) -> Iterator[UnitOfWork]:
    """Commits when the block ends, rolls back when it raises.

    Raises:
        CollisionError, DomainError: what the database answered, see `app.db.errors.translated`.
    """
    with translated(), sessions() as session:
        uow = UnitOfWork(session, tools)
        yield uow
        uow.write_events()
        session.commit()
    uow.committed()


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
