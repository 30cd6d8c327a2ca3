"""Tracks downloads in progress, so that they end when the reader's access is withdrawn."""

import threading
from collections.abc import Mapping, Set
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.db import families
from app.db import tokens as token_rows
from app.db.families import EVERYBODY
from app.domain.errors import DomainError
from app.domain.principal import INSTALLATION, Principal


@dataclass(eq=False)
class Download:
    """One download.

    Attributes:
        principal: The reader.
        family_id: The family that the principal must be able to see; None if the download reads none.
        has_ended: Whether reading must stop.
    """

    principal: Principal
    family_id: str | None
    has_ended: bool = False

    def require(self) -> None:
        """Raises `DomainError` (token.missing) if access was withdrawn."""
        if self.has_ended:
            raise DomainError("token.missing")


class Downloads:
    """The downloads of one process; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = set[Download]()

    def open(self, principal: Principal, family_id: str | None) -> Download:
        """Registers a download that was authorised; the caller must close it."""
        download = Download(principal, family_id)
        with self._lock:
            self._open.add(download)
        return download

    def close(self, download: Download) -> None:
        """Unregisters a download; idempotent."""
        with self._lock:
            self._open.discard(download)

    def __len__(self) -> int:
        """Returns the number of registered downloads."""
        return len(self._open)

    def end_withdrawn(self, session: Session) -> int:
        """Ends downloads whose token was revoked or whose owner may no longer see the family; returns how many.

        A token that merely expires does not end the downloads that began before.
        """
        with self._lock:
            held = list(self._open)
        kept = token_rows.ends(session, {download.principal.token for download in held})
        readable = families.readable(session, {download.family_id for download in held if download.family_id})
        ended = [download for download in held if not _is_allowed(download, kept.keys(), readable)]
        for download in ended:
            download.has_ended = True
        return len(ended)


def _is_allowed(download: Download, kept: Set[str], readable: Mapping[str, set[str]]) -> bool:
    principal = download.principal
    if principal.owner == INSTALLATION:  # a URL signed by an older service, which did not name the client
        return True
    if principal.token not in kept:
        return False
    if download.family_id is None or principal.is_admin:
        return True
    return not readable.get(download.family_id, set()).isdisjoint((principal.owner, EVERYBODY))
