"""The kinds of jobs: what each orders from its child process, how its result is recorded, and who runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.db.jobs import Claim
from app.services.catalog import ingestion, releases
from app.services.patches import imports
from app.services.ports import materialisations, port_digests
from app.services.unit_of_work import UnitOfWork


@dataclass(frozen=True)
class Kind:
    """The use cases of a kind of job: make the order (None: nothing to do), record the result, record the failure, clean up after
    a child process.

    `record` returns False if the result was recorded already, by an attempt whose commit was not confirmed.

    `keep` runs before `record` if bytes must be moved: in a read-only transaction, which blocks no other one.

    Attributes:
        own_place: whether every run writes to a place of its own, which can be cleared even when the job was lost.
        merges: whether it computes merged bytes, which workers with an accelerator do where any lives.
        urgent: whether it runs before all jobs that are not urgent.
    """

    order: Callable[[UnitOfWork, str], dict[str, Any] | None]
    record: Callable[[UnitOfWork, str, str, Claim, dict[str, Any]], bool]
    reject: Callable[[UnitOfWork, str, dict[str, Any]], None]
    clear: Callable[[UnitOfWork, dict[str, Any]], None] = lambda uow, order: None  # noqa: ARG005
    keep: Callable[[UnitOfWork, dict[str, Any]], Any] = lambda uow, result: None  # noqa: ARG005
    own_place: bool = False
    merges: bool = False
    urgent: bool = False


KINDS = {
    # A release holds up all that wait for it; digests only confirm what can be read already.
    releases.INGEST: Kind(
        ingestion.order,
        ingestion.record,
        releases.record_rejected,
        ingestion.clear,
        ingestion.keep,
        own_place=True,
        urgent=True,
    ),
    port_digests.DIGEST: Kind(port_digests.order, port_digests.record, lambda uow, subject, problem: None, merges=True),  # noqa: ARG005  the job says it
    materialisations.MATERIALISE: Kind(
        materialisations.order, materialisations.record, materialisations.record_failed, materialisations.clear, merges=True
    ),
    imports.IMPORT: Kind(imports.order, imports.record, imports.record_refused),
}
