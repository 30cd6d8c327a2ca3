"""What a tombstone keeps of a version, and what it does not.

Kept are number, digest, the names, sizes and digests of files (the names are the format's: what has another name is no part of
a patch, see `app.core.patch`), the figures of the configuration, and who purged it, when and why. What people chose is dropped:
names of files that were left out, names that the configuration holds, and the sentences of findings, which may quote it.
Events are a trail that nothing can change; they hold names of patches, figures and codes.
"""

from collections.abc import Callable
from typing import TypeVar

from app.core.errors import CoreError
from app.db import commits, idempotency, ports
from app.db.patches import PURGED, PatchVersion
from app.db.ports import Port
from app.domain.errors import DomainError
from app.domain.states import move
from app.services.unit_of_work import UnitOfWork

# Codes of the errors of a read whose bytes are removed meanwhile.
BYTES_REMOVED = ("blob.missing", "checkpoint.changed")
Value = TypeVar("Value")


def bury(version: PatchVersion) -> None:
    """Makes a locked version a tombstone."""
    version.state = move("version", version.state, PURGED)
    version.dropped, version.multiparts, version.refusal = [], None, None
    # Figures stay, names go.
    version.facts = {name: value for name, value in (version.facts or {}).items() if isinstance(value, int | float)} or None
    version.row_version += 1


def bury_port(port: Port) -> None:
    """Makes a locked port one that is never read or made again; of its findings the codes stay."""
    port.state = move("port", port.state, PURGED)
    port.findings = [{"code": f["code"], "severity": f["severity"], "message": "", "data": {}} for f in port.findings]
    port.fidelity = port.digests = None
    port.row_version += 1


def forget_answers(uow: UnitOfWork, version: PatchVersion) -> None:
    """Forgets what was answered about a version and its ports under an Idempotency-Key or over the Hub protocol: it quotes what
    is dropped here.
    """
    of_version = [port.id for port in ports.of_version(uow.session, version.id)]
    commits.forget(uow.session, [version.id, *of_version])
    held = [f"/api/v1/ports/{ident}" for ident in of_version]
    held += [f"/api/v1/uploads/{version.id}", f"/api/v1/patches/{version.patch.full_name}/versions/{version.number}"]
    idempotency.forget_about(uow.session, held)


def reread_if_purged(read: Callable[[], Value], again: Callable[[], Value] | None = None) -> Value:
    """Runs a read that opens its own transactions, and repeats it once if bytes were removed while it ran.

    The second run (`again`, if the first one was given rows that were read before) finds the tombstone and raises
    version.purged; an error with another cause is raised again.
    """
    try:
        return read()
    except (CoreError, DomainError) as error:
        if error.code not in BYTES_REMOVED:
            raise
    return (again or read)()
