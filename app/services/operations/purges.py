"""Purging: the erasure of a version for legal reasons.

One transaction makes the version a tombstone, which is no longer readable; then `app.services.operations.erasure` removes the
bytes, and retries until it has succeeded. Aliases of the version are kept, and reads through them are refused: a reader of
`prod` must not silently get other weights.
"""

from app.db import materialisations, patches, ports
from app.db.base import clock
from app.db.patches import PURGED, PatchVersion
from app.domain.errors import DomainError
from app.domain.events.patches import VersionPurged
from app.domain.principal import Principal
from app.domain.states import move
from app.services.jobs import attempts, jobs
from app.services.operations import erasure
from app.services.patches import versions
from app.services.patches.tombstones import bury, bury_port, forget_answers
from app.services.ports.materialisations import MATERIALISATION
from app.services.ports.port_digests import PORT_DIGEST
from app.services.unit_of_work import UnitOfWork


def purge(
    uow: UnitOfWork, principal: Principal, owner: str, name: str, number: int, reason: str, expected: int | None = None
) -> PatchVersion:
    """Makes a version a tombstone; a purged one is returned as it is, with the reason it was purged for.

    Raises:
        DomainError: version.unknown, token.scope, request.changed.
    """
    version = versions.get(uow, principal, owner, name, number)
    principal.require_operate(owner)
    uow.lock(version.patch)  # before its versions, as whoever publishes does
    uow.lock(version)
    uow.expect(version, expected, f"{owner}/{name}@{number}")
    if version.state == PURGED:
        return version
    running = _end_ports(uow, principal, version)
    present = clock(uow.session)
    bury(version)
    version.purged_at, version.purge_reason = present, reason
    version.purged_by = f"{principal.owner} {principal.token}"
    version.erasure = erasure.begin(present, running)
    forget_answers(uow, version)
    uow.event(VersionPurged(reason=reason, digest=version.digest), principal, owner, f"{owner}/{name}@{number}")
    uow.after_commit(lambda: uow.tools.artifacts.revoke({version.id}))
    return version


def purged(uow: UnitOfWork, principal: Principal, owner: str, name: str, number: int) -> PatchVersion:
    """A version that was purged.

    Raises:
        DomainError: version.unknown; state.move, when it was not purged.
    """
    version = versions.get(uow, principal, owner, name, number)
    if version.state != PURGED:
        raise DomainError("state.move", noun="version", state=version.state, target="erased")
    return version


def revoke_purged(uow: UnitOfWork) -> int:
    """Takes away what this process holds of versions that another purged; how many those were.

    Every read asks for the state of its version anyway; this ends the reads that had begun, and empties the caches.
    """
    held = sorted(uow.tools.artifacts.held())
    gone = patches.purged_among(uow.session, held) if held else ()
    uow.tools.artifacts.revoke(set(gone))
    return len(gone)


def _end_ports(uow: UnitOfWork, principal: Principal, version: PatchVersion) -> bool:
    """Ends all ports of a version, and what is made of them; whether a process may be writing a merged model just now."""
    found = ports.of_version(uow.session, version.id)
    for port in found:
        # Stopped before the port is locked, in the same lock order as a worker that records digests, and again afterwards in case
        # a job was enqueued in between.
        jobs.stop(uow, principal, PORT_DIGEST, port.job)
        uow.lock(port)
        jobs.stop(uow, principal, PORT_DIGEST, port.job)
        bury_port(port)
    running = False
    for row in materialisations.of_version(uow.session, version.id):
        was_cancelled = uow.tools.jobs.cancel(uow.session, row.job)
        uow.lock(row)
        if row.state == "done":
            row.state = move("materialisation", row.state, PURGED)
            row.row_version += 1
        elif MATERIALISATION.waits(row):
            running |= row.state == "running"
            if uow.tools.jobs.cancel(uow.session, row.job) or was_cancelled:
                jobs.record_cancelled(uow, principal, MATERIALISATION, row.job)
            else:
                attempts.fail(uow, MATERIALISATION, row.job, DomainError("job.cancelled").to_problem())
    return running
