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

# Codes of errors that a read raises if its bytes are removed meanwhile.
BYTES_REMOVED = ("blob.missing", "checkpoint.changed")
Value = TypeVar("Value")


def bury(version: PatchVersion) -> None:
    """Makes a locked version a tombstone."""
    version.state = move("version", version.state, PURGED)
    version.dropped, version.multiparts, version.refusal = [], None, None
    # Numbers are kept, names are removed.
    version.facts = {name: value for name, value in (version.facts or {}).items() if isinstance(value, int | float)} or None
    version.row_version += 1


def bury_port(port: Port) -> None:
    """Makes a locked port a tombstone, which is never read or made ready again; only the codes of its findings are kept."""
    port.state = move("port", port.state, PURGED)
    port.findings = [{"code": f["code"], "severity": f["severity"], "message": "", "data": {}} for f in port.findings]
    port.fidelity = port.digests = None
    port.row_version += 1


def forget_answers(uow: UnitOfWork, version: PatchVersion) -> None:
    """Deletes recorded answers about a version and its ports (Idempotency-Key, Hub protocol), which contain removed data."""
    of_version = [port.id for port in ports.of_version(uow.session, version.id)]
    commits.forget(uow.session, [version.id, *of_version])
    held = [f"/api/v1/ports/{ident}" for ident in of_version]
    held += [f"/api/v1/uploads/{version.id}", f"/api/v1/patches/{version.patch.full_name}/versions/{version.number}"]
    idempotency.forget_about(uow.session, held)


def reread_if_purged(read: Callable[[], Value], again: Callable[[], Value] | None = None) -> Value:
    """Runs a read that opens its own transactions, and repeats it once if bytes were removed meanwhile.

    The second run finds the tombstone and raises version.purged; if the error had another cause, it is raised again. Pass `again`
    if `read` uses rows that were read before.
    """
    try:
        return read()
    except (CoreError, DomainError) as error:
        if error.code not in BYTES_REMOVED:
            raise
    return (again or read)()
