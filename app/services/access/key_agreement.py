"""Key agreement: all processes of one installation must accept each other's signatures; mismatches are reported.

Every process writes a heartbeat with the names of its keys and reads those of the others. A name is derived from the key by
HKDF and reveals nothing about it. During a key rotation by way of the accepted keys, all processes accept each other throughout.
"""

import datetime as dt
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal

from app.db import heartbeats
from app.db.key_holders import KeyHolder
from app.domain.errors import DomainError
from app.services.access.encryption import name_of
from app.services.unit_of_work import UnitOfWork

Role = Literal["service", "worker"]
REMEMBERED = dt.timedelta(days=1)

log = logging.getLogger("portllm.keys")


class KeyAgreement:
    """Announces this process's keys and remembers which other processes have different ones.

    Args:
        begin: opens a unit of work that writes.
        ident: the id of this process.
        role: the role of this process.
        keys: the signing key, then the other accepted keys.
        ttl: seconds without a heartbeat after which a process counts as gone.
    """

    def __init__(
        self, begin: Callable[[], AbstractContextManager[UnitOfWork]], ident: str, role: Role, keys: Sequence[bytes], ttl: float
    ) -> None:
        self._begin, self.ident, self._role, self._ttl = begin, ident, role, ttl
        self._names = list(dict.fromkeys(map(name_of, keys)))
        self._blocking: list[str] = []
        self._differing: list[str] = []
        self._lock, self._has_left = threading.Lock(), False

    def renew(self) -> None:
        """Writes the heartbeat and compares it with the others; keeps the last finding if the database does not answer."""
        with self._lock:
            if not self._has_left:
                self._renew()

    def leave(self) -> None:
        """Removes this process's row, so that another key can be used as soon as all processes have stopped."""
        with self._lock:
            if self._has_left:
                return
            self._has_left = True
            try:
                with self._begin() as uow:
                    heartbeats.remove(uow.session, KeyHolder, self.ident)
            except DomainError as error:
                log.warning("this process could not be removed from the list of key holders: %s", error)

    def check(self) -> str | None:
        """Returns a note that names processes with different keys, if the mismatch does not make this process unready.

        A service is unready beside a longer-running service with another key, and a worker beside any such service. So the
        process that was misconfigured last is taken out of service, and the others go on.

        Raises:
            DomainError: key.differs, when this process is unready.
        """
        if self._blocking:
            raise DomainError("key.differs", others=", ".join(self._blocking))
        return f"another key is used by {', '.join(self._differing)}" if self._differing else None

    def _renew(self) -> None:
        try:
            with self._begin() as uow:
                row = KeyHolder(id=self.ident, role=self._role, signs=self._names[0], accepts=self._names)
                heartbeats.beat(uow.session, row, REMEMBERED)
                self._compare(heartbeats.processes(uow.session, KeyHolder, self._ttl))
        except DomainError as error:
            log.warning("the keys of this process could not be compared with those of others: %s", error)

    def _compare(self, live: Sequence[KeyHolder]) -> None:
        before, mine = [*self._blocking, *self._differing], next(index for index, row in enumerate(live) if row.id == self.ident)
        blocking, differing = list[str](), list[str]()
        for index, row in enumerate(live):
            agrees = row.signs in self._names and self._names[0] in row.accepts
            # Workers exchange nothing signed with each other.
            if agrees or (row.role == self._role == "worker"):
                continue
            blocks = row.role == "service" and (self._role == "worker" or index < mine)
            (blocking if blocks else differing).append(f"{row.role} {row.id}")
        self._blocking, self._differing = blocking, differing
        if (found := [*blocking, *differing]) != before:
            if found:
                log.warning("another PORTLLM_SECRET_KEY than this process's is used by: %s", ", ".join(found))
            else:
                log.warning("all processes accept each other's keys again")
