"""Imports: patches brought in from an upstream, one job for each; what their base is called there tells their family here."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.db import imports as rows
from app.db import patches as patch_rows
from app.db import retention
from app.db.base import clock, now
from app.db.imports import Import
from app.domain.errors import DomainError
from app.domain.events.patches import ImportCancelled, ImportImported, ImportPresent, ImportRefused, ImportRequested
from app.domain.ids import new_id
from app.domain.names import MAX_REPOSITORY, UNKNOWN, check_owner, check_patch, check_revision, patch_name_of
from app.domain.principal import Principal
from app.domain.upstreams import Reference
from app.services.access import tokens
from app.services.access.quotas import require_room, room
from app.services.catalog import base_aliases, upstreams
from app.services.jobs.kinds import Done, RowKind
from app.services.patches import drafts, patches, verification
from app.services.patches.drafts import AnnouncedFile
from app.services.patches.orders import BytesQuota, ImportOrder, ImportResult
from app.services.unit_of_work import Begin, UnitOfWork

MAX_AT_ONCE = 500


class ImportKind(RowKind[Import, ImportOrder, ImportResult]):
    """Downloads a patch from an upstream and publishes it by the same steps as an upload."""

    name, noun, model = Import.JOB, "import", Import
    # The job checks the values of the tensors that it downloads.
    task, result, preload = "app.jobs.tasks.import_patch", ImportResult, ("app.core.tensor.arithmetic",)
    failed, retention = "refused", "imports"

    def find(self, session: Session, subject: str) -> Import | None:
        return rows.get(session, subject)

    def describe(self, row: Import) -> str:
        return f"{row.id} ({row.patch})"

    def make_order(self, uow: UnitOfWork, row: Import) -> ImportOrder:
        known = {found.commit for found in _settled(uow, row) if _is_there(found, row)}
        limits, used = uow.tools.limits, room(uow, row.owner, "bytes")
        return ImportOrder(
            upstreams.hub(uow, row.upstream), row.repository, row.revision, tuple(sorted(commit for commit in known if commit)),
            uow.tools.blobs.where(), _staging(row), limits.patch_bytes, limits.patch_files,
            BytesQuota(row.owner, *used) if used else None,
        )  # fmt: skip

    def record(self, uow: UnitOfWork, row: Import, done: Done[ImportOrder, ImportResult]) -> None:
        row.commit = done.result.commit
        same = next((found for found in _settled(uow, row) if found.commit == row.commit and _is_there(found, row)), None)
        if done.result.files is None and same is None:
            raise DomainError("job.crashed", reason="what it found here is gone")
        if same is not None:
            row.version_id, row.facts, state = same.version_id, same.facts, "present"
        else:
            state = _publish(uow, row, done.result)
        self.finish(uow, row, state)
        uow.after_commit(lambda: uow.tools.blobs.discard(done.order.upload))
        kind = ImportImported if state == "imported" else ImportPresent
        event = kind(upstream=row.upstream, repository=row.repository, commit=row.commit)
        uow.event(event, done.worker, row.owner, row.patch)

    def tell_failed(self, uow: UnitOfWork, row: Import, worker: Principal, problem: dict[str, Any]) -> None:
        kind = ImportCancelled if row.state == "cancelled" else ImportRefused
        uow.event(kind(code=problem["code"], repository=row.repository), worker, row.owner, row.patch)

    def allow(self, uow: UnitOfWork, principal: Principal, row: Import) -> None:
        upstreams.require_usable(uow, principal, row.upstream)

    def tell_queued(self, uow: UnitOfWork, principal: Principal, row: Import) -> None:  # noqa: ARG002
        row.asked_by = _written(principal)

    def prune(self, session: Session, before: dt.datetime, limit: int) -> int:
        return retention.imports(session, before, limit)


IMPORT = ImportKind()


@dataclass(frozen=True)
class ImportRequest:
    """What somebody wants imported.

    Attributes:
        owner: of the patches; the caller's own where nothing is said.
        trained_on: a release, or "unknown"; None: what the name of the base says.
        name: of the patch, where it is one; otherwise it is made of the repository's.
    """

    sources: tuple[str, ...]
    owner: str | None = None
    trained_on: str | None = None
    name: str | None = None

    @property
    def names_organisation(self) -> bool:
        """Whether any source names an organisation, so that the upstream must be asked for its repositories."""
        return any(source.partition(":")[2].partition("@")[0].endswith("/*") for source in self.sources)


def look_up(read: Begin, principal: Principal, wish: ImportRequest) -> list[Reference]:
    """The repositories that are meant, each once; asks the upstream for those of a whole organisation.

    Args:
        read: opens a unit of work that reads; none is open while an upstream is waited for.

    Raises:
        DomainError: token.scope, request.name, upstream.*, import.name, import.too_many, secret.*, outgoing.*.
    """
    from app.clients.hub import HubClient  # noqa: PLC0415  httpx, which a registry without upstreams never needs

    principal.require_publish(wish.owner or principal.owner)
    if wish.trained_on not in (None, UNKNOWN):
        check_revision(str(wish.trained_on), "a release")
    found = dict[Reference, None]()
    for reference in [Reference.parse(source) for source in wish.sources]:
        with read() as uow:
            upstreams.require_usable(uow, principal, reference.upstream)
            hub = upstreams.hub(uow, reference.upstream) if reference.organisation else None
        if hub is None:
            found[reference] = None
            continue
        for repository in HubClient(hub).adapters(str(reference.organisation)):
            found[Reference.parse(f"{reference.upstream}:{repository}@{reference.revision}")] = None
    if len(found) > MAX_AT_ONCE:
        raise DomainError("import.too_many", count=len(found), limit=MAX_AT_ONCE)
    if wish.name and len(found) != 1:
        raise DomainError("import.name", count=len(found))
    return list(found)


def request(uow: UnitOfWork, principal: Principal, wish: ImportRequest, found: Sequence[Reference]) -> tuple[str, list[Import]]:
    """Starts the import of repositories; the batch that they are listed by, and one row for each.

    Raises:
        DomainError: token.scope; request.name, where one is asked for: of several, those that cannot be a patch are refused.
    """
    owner = wish.owner or principal.owner
    principal.require_publish(owner)
    check_owner(owner)
    require_room(uow, owner, jobs=len(found))
    batch, made = new_id("bat"), list[Import]()
    for ident, reference in zip(sorted(new_id("imp") for _ in found), found, strict=True):  # listed in the order of the wish
        name = wish.name or patch_name_of(reference.repository)
        problem = _misnamed(owner, name)
        if problem and len(found) == 1:
            raise problem
        made.append(
            Import(
                id=ident, created_at=now(), batch=batch, owner=owner, name=name[:MAX_REPOSITORY], named=wish.name is not None,
                upstream=reference.upstream, repository=reference.repository, revision=reference.revision, commit=None,
                trained_on=wish.trained_on, asked_by=_written(principal), state="refused" if problem else "queued", attempt=1,
                version_id=None, facts=None, problem=problem.to_problem() if problem else None, version=None,
                finished_at=clock(uow.session) if problem else None,
            )
        )  # fmt: skip
    uow.session.add_all(made)
    uow.session.flush()
    for row in (row for row in made if row.state == "queued"):
        IMPORT.enqueue(uow, row)
    uow.event(ImportRequested(sources=list(wish.sources)[:20], count=len(made)), principal, owner, batch)
    return batch, made


def get(uow: UnitOfWork, principal: Principal, ident: str) -> Import:
    """An import that the principal may read; others do not exist for it."""
    row = rows.get(uow.session, ident)
    if row is None or not principal.can_read(row.owner):
        raise DomainError("import.unknown", ident=ident[:60])
    return row


def list_page(
    uow: UnitOfWork, principal: Principal, batch: str | None, state: str | None, after: str | None, limit: int
) -> Sequence[Import]:
    """Those of the principal's owner, newest first; an admin sees all."""
    return rows.list_page(uow.session, None if principal.is_admin else principal.owner, batch, state, after, limit)


def _publish(uow: UnitOfWork, row: Import, result: ImportResult) -> str:
    """Makes a version of the files that were brought; the state that the import ends in."""
    principal, base, revision, files = _asker(row), result.base_model, result.base_revision, result.files or ()
    if not tokens.is_good(uow, principal):
        raise DomainError("import.token")
    found = base_aliases.find(uow, principal, base, revision)
    if found is None:
        raise DomainError("import.base", repository=row.repository, base=(base or "")[:200])
    trained_on = row.trained_on or (found.release.name if found.release else None)
    if trained_on is None:
        raise DomainError("import.release", repository=row.repository, base=(base or "")[:200], family=found.family.name)
    _require_own(uow, row)
    patches.create(uow, principal, row.owner, row.name, found.family.name)
    uow.hold_gc()
    for file in files:
        if uow.tools.blobs.size(file.sha256) != file.size:
            raise DomainError("blob.missing", digest=file.sha256)
    # The job hashed them while it downloaded them for this owner, see `app.jobs.tasks.download`.
    announced = [AnnouncedFile(file.path, file.size, file.sha256, kept=True) for file in files]
    version, is_new = drafts.draft(uow, principal, row.owner, row.name, trained_on, announced)
    if is_new:
        version.dropped = sorted(result.dropped)[: uow.tools.limits.patch_files]
        # The job has read all values already; here only headers are.
        version = drafts.publish(uow, principal, version.id, verification.facts_of(uow.tools, version, read_values=False))
    row.version_id = version.id
    row.facts = {
        "base_model": base, "family": found.family.name, "trained_on": trained_on, "bytes": version.total_bytes,
        "dropped": list(result.dropped)[:100],
    }  # fmt: skip
    uow.session.flush()
    return "imported" if is_new else "present"


def _misnamed(owner: str, name: str) -> DomainError | None:
    try:
        check_patch(owner, name)
    except DomainError as error:
        return error
    return None


def _require_own(uow: UnitOfWork, row: Import) -> None:
    """Raises `DomainError` (import.taken) where a name that nobody chose is that of a patch from somewhere else."""
    patch = patch_rows.by_name(uow.session, row.owner, row.name)
    if patch is None or row.named:
        return
    if (row.upstream, row.repository) not in rows.origins(uow.session, row.owner, row.name):
        raise DomainError("import.taken", patch=row.patch, repository=row.repository)


def _is_there(found: Import, row: Import) -> bool:
    """Whether what an import became can still be taken for the outcome of another one."""
    version = found.version
    if version is None or version.state != "published" or found.name != row.name:
        return False
    return row.trained_on is None or bool(found.facts and found.facts["trained_on"] == row.trained_on)


def _settled(uow: UnitOfWork, row: Import) -> Sequence[Import]:
    return rows.settled(uow.session, row.owner, row.upstream, row.repository)


def _staging(row: Import) -> str:
    return f"pull-{row.id}"


def _written(principal: Principal) -> dict[str, Any]:
    return {
        "owner": principal.owner, "scopes": sorted(principal.scopes), "token": principal.token, "address": principal.address,
        "request": principal.request,
    }  # fmt: skip


def _asker(row: Import) -> Principal:
    """Whoever asked for it, with the rights of that moment: what is published is published by them."""
    said = row.asked_by
    return Principal(said["owner"], frozenset(said["scopes"]), said["token"], said["address"], said["request"])
