"""Publishes a draft: one request at a time verifies it, outside transactions; a write transaction then numbers it."""

from contextlib import suppress

from app.core.errors import CoreError
from app.db.patches import PatchVersion
from app.domain.errors import DomainError
from app.domain.principal import Principal
from app.services.patches import drafts, verification
from app.services.patches.tombstones import reread_if_purged
from app.services.unit_of_work import UnitsOfWork, run_with_retry


def publish(units: UnitsOfWork, principal: Principal, upload: str) -> PatchVersion:
    """Verifies the uploaded files of a draft and publishes it under the next number. Idempotent: a published one is returned.

    After a refusal, the verified files are kept, and a repeated request gets the same refusal until a file changes.

    Raises:
        DomainError: request.under_way, while another request verifies the draft; see also `verification.verify` and
            `uploads.publish`.
        CoreError: the uploaded files are not a patch.
    """
    with units.read() as uow:  # checks access before revealing the lock; a settled draft needs no lock
        verification.find(uow, principal, upload)
    with units.exclusive(f"upload:{upload}", f"The upload {upload}"):
        verified: list[str] = []
        try:
            facts = reread_if_purged(lambda: verification.verify(units, principal, upload, verified))
        except (CoreError, DomainError) as error:
            refusal = error
            with suppress(DomainError):  # the caller gets the refusal even if recording it fails
                run_with_retry(units.write, lambda uow: verification.refuse(uow, principal, upload, verified, refusal))
            raise
        return run_with_retry(units.write, lambda uow: drafts.publish(uow, principal, upload, facts))
