"""Materialisations: a merged model written to a place of its owner's, by a job."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

from app.blobs.s3.client import shared_client
from app.blobs.s3.target import S3Target
from app.core.recipe import Recipe
from app.db import materialisations as rows
from app.db.base import clock, now
from app.db.jobs import Claim, still_ours
from app.db.materialisations import Materialisation
from app.domain.errors import DomainError
from app.domain.events.ports import MaterialisationCancelled, MaterialisationDone, MaterialisationFailed, MaterialisationQueued
from app.domain.ids import new_id
from app.domain.principal import INSTALLATION, Principal
from app.domain.s3_uri import S3Uri
from app.domain.states import move
from app.services.access.quotas import require_room
from app.services.ports import ports
from app.services.unit_of_work import UnitOfWork

MATERIALISE = "materialise"


def request(uow: UnitOfWork, principal: Principal, port_id: str, target: str) -> tuple[Materialisation, bool]:
    """Asks for the merged model of a ready port at a place; the same place again returns what is there.

    Returns:
        The materialisation, and whether a job was started: for a new one, and for one that failed or was cancelled.

    Raises:
        DomainError: port.unknown, port.not_ready, version.purged, place.invalid, place.not_allowed.
    """
    uow.lock(ports.get(uow, principal, port_id), shared=True)  # nobody purges its version before this is there to be ended
    port = ports.readable(uow, principal, port_id)
    principal.require_publish(port.owner)
    place = S3Uri.parse(target)
    place.require_below(uow.tools.allowed_s3)
    row = rows.at(uow.session, port.id, str(place))
    if row:
        uow.lock(row)
    if row and row.state not in ("failed", "cancelled"):
        return row, False
    require_room(uow, port.owner, jobs=1)
    if row is None:
        row = Materialisation(
            id=new_id("mat"), created_at=now(), port_id=port.id, owner=port.owner, target=str(place), state="queued", attempt=1,
            result=None, problem=None, finished_at=None,
        )  # fmt: skip
        row.port = port
        uow.add(row)
    else:
        row.state = move("materialisation", row.state, "queued")
        row.attempt, row.problem, row.finished_at = row.attempt + 1, None, None
        row.row_version += 1
    uow.tools.jobs.enqueue(uow.session, job_of(row), MATERIALISE, row.id)
    uow.event(MaterialisationQueued(port=port.id, target=row.target), principal, row.owner, row.id)
    return row, True


def again(uow: UnitOfWork, principal: Principal, ident: str) -> str:
    """Starts the next attempt after one that failed or was cancelled; the job."""
    row = get(uow, principal, ident)
    return job_of(request(uow, principal, row.port_id, row.target)[0])


def job_of(row: Materialisation) -> str:
    """Deterministic: one job for each attempt."""
    return _job(row.owner, row.id, row.attempt)


def _job(owner: str, ident: str, attempt: int) -> str:
    return f"{owner}:{MATERIALISE}:{ident}-{attempt}"


def get(uow: UnitOfWork, principal: Principal, ident: str) -> Materialisation:
    """A materialisation that the principal may read; others do not exist for it."""
    row = rows.get(uow.session, ident)
    if row is None or not principal.can_read(row.owner):
        raise DomainError("materialisation.unknown", materialisation=ident[:60])
    return row


def list_page(uow: UnitOfWork, principal: Principal, port_id: str, after: str | None, limit: int) -> Sequence[Materialisation]:
    """Those of one port, newest first."""
    port = ports.get(uow, principal, port_id)
    return rows.list_page(uow.session, port.id, after, limit)


def order(uow: UnitOfWork, ident: str) -> dict[str, Any] | None:
    """What the child process has to do; None when there is nothing to do any more."""
    row = _locked(uow, ident)
    if row is None or row.state not in ("queued", "running"):
        return None
    if row.state == "queued":
        row.state = move("materialisation", row.state, "running")
        row.row_version += 1
    port = row.port
    place = S3Uri.parse(row.target)
    place.require_below(uow.tools.allowed_s3)  # asked again: the list may have changed since
    recipe = Recipe.from_dict(port.recipe)
    return {
        **uow.tools.artifacts.merge_order(port.release, port.version, recipe),
        "paths": list(uow.tools.artifacts.plan(port.release, port.version, recipe).files),
        "target": {"kind": "s3", "bucket": place.bucket, "prefix": place.prefix},
        "fingerprint": port.fingerprint,
    }


def record(uow: UnitOfWork, ident: str, job: str, held: Claim, result: dict[str, Any]) -> bool:
    """Records which files were written; returns False if the materialisation no longer waits for that.

    Raises:
        DomainError: job.lost.
    """
    if not still_ours(uow.session, job, held):
        raise DomainError("job.lost", job=job)
    row = _locked(uow, ident)
    if row is None or row.state != "running":
        return False
    _finish(row, "done", clock(uow.session))
    row.result = result
    worker = Principal(INSTALLATION, frozenset({"admin"}), job)
    copied, moved = result["bytes_copied"], result["bytes_moved"]
    event = MaterialisationDone(port=row.port_id, target=row.target, bytes_copied=copied, bytes_moved=moved)
    uow.event(event, worker, row.owner, row.id)
    return True


def record_failed(uow: UnitOfWork, ident: str, problem: dict[str, Any]) -> None:
    """Marks it as failed (or cancelled), with the reason in the language of all errors."""
    row = _locked(uow, ident)
    if row is None or row.state not in ("queued", "running"):
        return
    _finish(row, "cancelled" if problem["code"] == "job.cancelled" else "failed", clock(uow.session))
    row.problem = problem
    worker = Principal(INSTALLATION, frozenset({"admin"}), job_of(row))
    kind = MaterialisationCancelled if row.state == "cancelled" else MaterialisationFailed
    uow.event(kind(port=row.port_id, code=problem["code"]), worker, row.owner, row.id)


def unfinished(uow: UnitOfWork) -> list[tuple[str, str]]:
    """Returns (job, id) of every materialisation that waits for its job, the oldest first."""
    return [(_job(owner, ident, attempt), ident) for owner, ident, attempt in rows.unfinished(uow.session)]


def give_up(uow: UnitOfWork, ident: str, job: str, problem: dict[str, Any]) -> None:
    """Marks the materialisation of an abandoned job as failed, unless another attempt has begun since."""
    row = rows.get(uow.session, ident)
    if row is not None and job_of(row) == job:
        record_failed(uow, ident, problem)


def clear(uow: UnitOfWork, order: dict[str, Any]) -> None:  # noqa: ARG001  the form of all kinds
    """Drops the parts that a child left that ended without a result."""
    target = order["target"]
    S3Target(shared_client(), target["bucket"], target["prefix"], order["fingerprint"]).abort_all(order["paths"])


def _locked(uow: UnitOfWork, ident: str) -> Materialisation | None:
    """A materialisation as it is now: somebody may just cancel it."""
    row = rows.get(uow.session, ident)
    if row is not None:
        uow.lock(row)
    return row


def _finish(row: Materialisation, state: str, present: dt.datetime) -> None:
    row.state = move("materialisation", row.state, state)
    row.finished_at = present
    row.row_version += 1
