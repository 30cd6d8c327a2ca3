"""Publishes a draft: one request at a time verifies it, outside transactions; a write transaction then numbers it."""

from contextlib import AbstractContextManager, suppress
from typing import Protocol

from app.core.errors import CoreError
from app.db.patches import PatchVersion
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.services.operations import purges
from app.services.patches import drafts, verification
from app.services.unit_of_work import Tools, UnitOfWork, run_with_retry


class Opened(Protocol):
    """A running registry."""

    tools: Tools

    def read(self) -> AbstractContextManager[UnitOfWork]:
        """Opens a read-only unit of work."""

    def write(self) -> AbstractContextManager[UnitOfWork]:
        """Opens a unit of work that may write, and commits it at the end."""

    def exclusive(self, name: str, what: str) -> AbstractContextManager[None]:
        """Holds a named lock across all replicas; see `Backend.exclusive`."""


def publish(opened: Opened, principal: Principal, upload: str) -> PatchVersion:
    """Verifies the uploaded files of a draft and publishes it under the next number. Idempotent: a published one is returned.

    After a refusal, the verified files are kept, and a repeated request gets the same refusal until a file changes.

    Raises:
        DomainError: request.under_way, while another request verifies the draft; see also `verification.verify` and
            `uploads.publish`.
        CoreError: the uploaded files are not a patch.
    """
    with opened.read() as uow:  # checks access before revealing the lock; a settled draft needs no lock
        verification.find(uow, principal, upload)
    with opened.exclusive(f"upload:{upload}", f"The upload {upload}"):
        verified: list[str] = []
        try:
            facts = purges.again(lambda: verification.verify(opened, principal, upload, verified))
        except (CoreError, DomainError) as error:
            refusal = error
            with suppress(DomainError):  # the caller gets the refusal even if recording it fails
                run_with_retry(opened.write, lambda uow: verification.refuse(uow, principal, upload, verified, refusal))
            raise
        return run_with_retry(opened.write, lambda uow: drafts.publish(uow, principal, upload, facts))
