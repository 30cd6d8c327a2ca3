"""Materialisations: a merged model written to a place of its owner's, by a job."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy.orm import Session

from app.blobs.locations import S3Prefix
from app.blobs.s3.client import shared_client
from app.blobs.s3.target import S3Target
from app.db import materialisations as rows
from app.db.base import now
from app.db.materialisations import Materialisation
from app.db.ports import Port
from app.domain.errors import DomainError
from app.domain.events.ports import MaterialisationCancelled, MaterialisationDone, MaterialisationFailed, MaterialisationQueued
from app.domain.ids import new_id
from app.domain.principal import Principal
from app.domain.s3_uri import S3Uri
from app.services.access.quotas import require_room
from app.services.jobs.kinds import Done, RowKind
from app.services.ports import ports
from app.services.ports.merge_orders import merge_order
from app.services.ports.orders import MaterialiseOrder, MaterialiseResult
from app.services.unit_of_work import UnitOfWork


class MaterialisationKind(RowKind[Materialisation, MaterialiseOrder, MaterialiseResult]):
    """Writes a merged model to S3."""

    name, noun, model = Materialisation.JOB, "materialisation", Materialisation
    task, result, preload = "app.jobs.tasks.materialise", MaterialiseResult, ("app.core.tensor.arithmetic",)
    merges = True

    def find(self, session: Session, subject: str) -> Materialisation | None:
        return rows.get(session, subject)

    def describe(self, row: Materialisation) -> str:
        return f"{row.id} ({row.target})"

    def make_order(self, uow: UnitOfWork, row: Materialisation) -> MaterialiseOrder:
        place, merge = _allowed(uow, row.target), merge_order(uow.tools, row.port)
        plan = uow.tools.artifacts.plan(row.port.release, row.port.version, merge.recipe)
        return MaterialiseOrder(merge, tuple(plan.files), S3Prefix(place.bucket, place.prefix), row.port.fingerprint)

    def record(self, uow: UnitOfWork, row: Materialisation, done: Done[MaterialiseOrder, MaterialiseResult]) -> None:
        self.finish(uow, row, "done")
        row.result = asdict(done.result)
        copied, moved = done.result.bytes_copied, done.result.bytes_moved
        event = MaterialisationDone(port=row.port_id, target=row.target, bytes_copied=copied, bytes_moved=moved)
        uow.event(event, done.worker, row.owner, row.id)

    def tell_failed(self, uow: UnitOfWork, row: Materialisation, worker: Principal, problem: dict[str, Any]) -> None:
        kind = MaterialisationCancelled if row.state == "cancelled" else MaterialisationFailed
        uow.event(kind(port=row.port_id, code=problem["code"]), worker, row.owner, row.id)

    def tell_queued(self, uow: UnitOfWork, principal: Principal, row: Materialisation) -> None:
        uow.event(MaterialisationQueued(port=row.port_id, target=row.target), principal, row.owner, row.id)

    def clear(self, uow: UnitOfWork, order: MaterialiseOrder) -> None:  # noqa: ARG002
        target = order.target
        S3Target(shared_client(), target.bucket, target.prefix, order.fingerprint).abort_all(order.paths)

    def allow(self, uow: UnitOfWork, principal: Principal, row: Materialisation) -> None:
        _readable(uow, principal, row.port_id)
        _allowed(uow, row.target)


MATERIALISATION = MaterialisationKind()


def request(uow: UnitOfWork, principal: Principal, port_id: str, target: str) -> tuple[Materialisation, bool]:
    """Asks for the merged model of a ready port at a place; the same place again returns what is there.

    Returns:
        The materialisation, and whether a job was started: for a new one, and for one that failed or was cancelled.

    Raises:
        DomainError: port.unknown, port.not_ready, version.purged, place.invalid, place.not_allowed.
    """
    port, place = _readable(uow, principal, port_id), _allowed(uow, target)
    row = rows.at(uow.session, port.id, str(place))
    if row:
        uow.lock(row)
    if row and row.state not in ("failed", "cancelled"):
        return row, False
    require_room(uow, port.owner, jobs=1)
    if row:
        MATERIALISATION.again(uow, principal, row)
    else:
        row = Materialisation(
            id=new_id("mat"), created_at=now(), port_id=port.id, owner=port.owner, target=str(place), state="queued", result=None
        )  # fmt: skip
        row.port = port
        uow.add(row)
        MATERIALISATION.begin(uow, principal, row)
    return row, True


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


def _readable(uow: UnitOfWork, principal: Principal, port_id: str) -> Port:
    """Returns a port that the principal may materialise; its version cannot be purged until this transaction ends."""
    uow.lock(ports.get(uow, principal, port_id), shared=True)
    port = ports.readable(uow, principal, port_id)
    principal.require_publish(port.owner)
    return port


def _allowed(uow: UnitOfWork, target: str) -> S3Uri:
    """Returns a location that may be written to. Called for every attempt, because the allowed locations may have changed."""
    place = S3Uri.parse(target)
    place.require_below(uow.tools.allowed_s3)
    return place
