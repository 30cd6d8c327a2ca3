"""Publishes a draft: verified by one request at a time, outside transactions, then numbered in one that writes."""

from contextlib import AbstractContextManager, suppress
from typing import Protocol

from app.core.errors import CoreError
from app.db.patches import PatchVersion
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.services import purges, uploads, verification
from app.services.uow import Tools, UnitOfWork, settle


class Opened(Protocol):
    """A running registry."""

    tools: Tools

    def read(self) -> AbstractContextManager[UnitOfWork]:
        """A unit of work that only reads."""

    def write(self) -> AbstractContextManager[UnitOfWork]:
        """A unit of work that may write; commits at its end."""

    def exclusive(self, name: str, what: str) -> AbstractContextManager[None]:
        """Holds a lock by name, on all replicas; see `Backend.exclusive`."""


def publish(opened: Opened, principal: Principal, upload: str) -> PatchVersion:
    """Verifies what arrived for a draft and publishes it under the next number; one that is published already is returned.

    After a refusal, files that were verified are kept, and a repeat gets the same refusal until a file changes.

    Raises:
        DomainError: request.under_way, while another request verifies it; what `verification.verify` and `uploads.publish` raise.
        CoreError: what was uploaded is not a patch.
    """
    with opened.read() as uow:  # strangers learn nothing about the lock, and a settled draft needs none
        verification.find(uow, principal, upload)
    with opened.exclusive(f"upload:{upload}", f"The upload {upload}"):
        verified: list[str] = []
        try:
            facts = purges.again(lambda: verification.verify(opened, principal, upload, verified))
        except (CoreError, DomainError) as error:
            refusal = error
            with suppress(DomainError):  # the refusal is the answer, whatever becomes of the record of it
                settle(opened.write, lambda uow: verification.refuse(uow, principal, upload, verified, refusal))
            raise
        return settle(opened.write, lambda uow: uploads.publish(uow, principal, upload, facts))
