"""Ports: a patch version carried to a release, with reasons."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.core.diagnostics import Lineage
from app.core.findings import Finding
from app.core.recipe import Recipe, fingerprint
from app.db import commits
from app.db import materialisations as materialisation_rows
from app.db import ports as rows
from app.db import releases as release_rows
from app.db.base import now
from app.db.patches import PatchVersion
from app.db.ports import Port, PortLine
from app.db.releases import LineageSample, Release
from app.domain.errors import DomainError
from app.domain.events.ports import PortContents, PortHeld, PortReady, PortRefused, PortRetired
from app.domain.ids import new_id
from app.domain.principal import Principal
from app.domain.states import move
from app.services.access import grants
from app.services.access.quotas import open_account
from app.services.catalog import families, releases
from app.services.patches import patches
from app.services.ports import assessments
from app.services.ports.assessments import Case
from app.services.ports.merged_files import contents_of
from app.services.tools import Tools
from app.services.unit_of_work import UnitOfWork

# What a reason can outweigh: judgements about likeness. A patch that does not fit exactly is never forced.
ARGUABLE = frozenset({"lineage.unrelated"})


@dataclass(frozen=True)
class PortRequest:
    """What is asked for: a patch (owner/name), a version reference or None, a release, a recipe, a reason to force."""

    owner: str
    patch: str
    version: str | None
    release: str
    family: str | None
    recipe: Recipe
    force: str | None


@dataclass(frozen=True)
class Verdict:
    """The result of assessing a request; `lineage` is set if it was sampled just now, `contents` by `with_contents`."""

    version: PatchVersion
    release: Release
    recipe: Recipe
    fingerprint: str
    state: str
    findings: tuple[Finding, ...]
    fidelity: dict[str, Any] | None
    tensors_changed: int
    lineage: Lineage | None
    contents: PortContents | None = None


def find(uow: UnitOfWork, principal: Principal, wish: PortRequest) -> Case:
    """Reads the rows that a wish names; reads no bytes.

    Raises:
        DomainError: the patch, version or release does not exist or cannot be used.
    """
    patch = patches.get(uow, principal, wish.owner, wish.patch)
    if wish.family not in (None, patch.family.name):
        raise DomainError("patch.other_family", patch=patch.full_name, family=patch.family.name, asked=wish.family)
    if wish.force is not None and not wish.force.strip():
        raise DomainError("port.force")
    version = patches.resolve_version(uow, patch, wish.version)
    release = releases.get_ready(uow, principal, patch.family.name, wish.release)
    old = version.trained_on
    known = release_rows.lineage(uow.session, str(old.manifest), str(release.manifest)) if old else None
    return Case(version, release, wish.recipe, known)


def assess(tools: Tools, case: Case, force: str | None) -> Verdict:
    """Assesses whether a patch can be carried to a release, and why; stores nothing. No transaction may be open.

    Args:
        tools: the library, and the semaphore for checks.
        case: from `find`.
        force: the reason for overriding a finding about lineage, if any.

    Raises:
        DomainError: server.busy; storage.unavailable, among others, if bytes cannot be read.
        CoreError: bytes have changed. A patch that does not fit is a finding, not an error.
    """
    found, lineage = assessments.assess(tools, case)
    return Verdict(
        case.version, case.release, case.recipe,
        fingerprint(case.recipe, str(case.release.manifest), case.version.digest),
        _state(found.findings, case.version, force), found.findings, found.fidelity, found.tensors_changed, lineage,
    )  # fmt: skip


def with_contents(tools: Tools, verdict: Verdict) -> Verdict:
    """Returns a verdict with what `create` needs to make a port ready. No transaction may be open.

    Raises:
        DomainError, CoreError: as `assess`.
    """
    if verdict.state != "ready":
        return verdict
    return replace(verdict, contents=contents_of(tools.artifacts, verdict.release, verdict.version, verdict.recipe))


def remember_lineage(uow: UnitOfWork, verdict: Verdict) -> None:
    """Keeps what was sampled: a pair of releases is sampled once."""
    trained_on = verdict.version.trained_on
    if verdict.lineage is None or trained_on is None:
        return
    old, new = str(trained_on.manifest), str(verdict.release.manifest)
    if release_rows.lineage(uow.session, old, new) is None:
        sample = LineageSample(id=new_id("lin"), created_at=now(), old_manifest=old, new_manifest=new, lineage={})
        sample.lineage = verdict.lineage.to_dict()
        uow.add(sample)


def create(uow: UnitOfWork, principal: Principal, verdict: Verdict, force: str | None) -> tuple[Port, bool]:
    """Stores a port as assessed; the same recipe again returns what is there.

    Returns:
        The port, and whether it is new.
    """
    version, release = verdict.version, verdict.release
    principal.require_publish(version.owner)
    account = open_account(uow, version.owner, "ports")
    # Asked again in this transaction: the verdict was reached in another one.
    uow.lock(patches.find_version(uow, version.patch, str(version.number)), shared=True)
    patches.resolve_version(uow, version.patch, str(version.number))
    uow.lock(releases.get(uow, principal, release.family.name, release.name), shared=True)
    releases.get_ready(uow, principal, release.family.name, release.name)
    remember_lineage(uow, verdict)
    existing = rows.existing(uow.session, version.id, release.id, verdict.fingerprint, force is not None)
    if existing:
        uow.lock(existing)
    if existing and existing.state != "retired":
        return existing, False
    account.charge(ports=1)
    if existing:
        existing.fingerprint = existing.id  # gives its natural key away until what refers to it does not any more
        uow.session.flush()
    port = Port(
        id=new_id("prt"), created_at=now(), version_id=version.id, release_id=release.id, owner=version.owner,
        state="checking", recipe=verdict.recipe.to_dict(), fingerprint=verdict.fingerprint, forced=force is not None,
        reason=force, findings=[f.to_dict() for f in verdict.findings], fidelity=verdict.fidelity, digests=None,
    )  # fmt: skip
    port.state = move("port", port.state, verdict.state)
    port.ready_at = now() if port.state == "ready" else None
    uow.add(port)
    if existing:  # the same recipe, so the same bytes: what was written of them is this port's now
        materialisation_rows.move(uow.session, existing.id, port.id)
        commits.forget(uow.session, [existing.id])
        uow.session.delete(existing)
        uow.session.flush()
    wish: dict[str, Any] = {
        "patch": version.patch.full_name, "version": version.number, "release": release.name, "forced": port.forced
    }  # fmt: skip
    if port.state == "ready":
        uow.event(PortReady(**wish, contents=verdict.contents), principal, port.owner, port.id)
    else:
        uow.event((PortHeld if port.state == "held" else PortRefused)(**wish), principal, port.owner, port.id)
    return get(uow, principal, port.id), True


def get(uow: UnitOfWork, principal: Principal, port_id: str) -> Port:
    """A port that the principal may read; others do not exist for it."""
    port = rows.get(uow.session, port_id)
    if port is None or not principal.can_read(port.owner):
        raise DomainError("port.unknown", port=port_id[:60])
    return port


def list_page(
    uow: UnitOfWork,
    principal: Principal,
    patch_name: str | None,
    version: str | None,
    family_name: str | None,
    release_name: str | None,
    state: str | None,
    after: str | None,
    limit: int,
) -> list[PortLine]:
    """Ports, newest first; of one family, one patch (owner/name), one of its versions, one release.

    Raises:
        DomainError: patch.unknown, patch.other_family, family.unknown, release.unknown, version.unknown; request.invalid.
    """
    owner = None if principal.is_admin else principal.owner
    patch = release = None
    if patch_name:
        patch = patches.get(uow, principal, *patch_name.split("/", 1)) if "/" in patch_name else None
        if patch is None:
            raise DomainError("patch.unknown", patch=patch_name[:200])
        if family_name and family_name != patch.family.name:
            raise DomainError("patch.other_family", patch=patch.full_name, family=patch.family.name, asked=family_name)
    elif version:
        raise DomainError("request.invalid", reason="A version can be asked for together with its patch.")
    family = patch.family if patch else families.get(uow, principal, family_name) if family_name else None
    if release_name:
        if family is None:
            raise DomainError("request.invalid", reason="A release can be asked for together with its family or a patch.")
        release = releases.of_family(uow, family, release_name)
    chosen = patches.find_version(uow, patch, version) if patch and version else None
    return rows.list_page(
        uow.session, owner, family.id if family else None, patch.id if patch else None, chosen.id if chosen else None,
        release.id if release else None, state, after, limit,
    )  # fmt: skip


def contents_to_approve(tools: Tools, port: Port) -> PortContents | None:
    """Returns what `approve` needs to make a port ready; None if it is not held. No transaction may be open.

    Raises:
        DomainError: storage.unavailable, among others.
        CoreError: its bytes have changed.
    """
    return (
        contents_of(tools.artifacts, port.release, port.version, Recipe.from_dict(port.recipe)) if port.state == "held" else None
    )


def approve(
    uow: UnitOfWork, principal: Principal, port_id: str, reason: str, expected: int | None = None,
    contents: PortContents | None = None,
) -> Port:  # fmt: skip
    """Lets a held port become ready."""
    port = get(uow, principal, port_id)
    principal.require_publish(port.owner)
    uow.lock(port.version, shared=True)  # before the port, as a purge does
    uow.lock(port)
    uow.expect(port, expected, "The port")
    port.state = move("port", port.state, "ready")
    port.reason = reason
    port.ready_at = now()
    port.row_version += 1
    uow.event(PortReady(approved=True, reason=reason, contents=contents), principal, port.owner, port.id)
    return port


def retire(uow: UnitOfWork, principal: Principal, port_id: str, expected: int | None = None) -> Port:
    """Takes a port out of use; its merged model is not handed out any more."""
    port = get(uow, principal, port_id)
    principal.require_publish(port.owner)
    uow.lock(port)
    uow.expect(port, expected, "The port")
    port.state = move("port", port.state, "retired")
    port.row_version += 1
    uow.event(PortRetired(), principal, port.owner, port.id)
    return port


def readable(uow: UnitOfWork, principal: Principal, port_id: str) -> Port:
    """A port whose merged model can be read.

    Raises:
        DomainError: port.unknown, port.not_ready, version.purged; family.unknown where its base model may not be seen (any more).
    """
    port = get(uow, principal, port_id)
    if not grants.is_visible(uow, principal, port.release.family_id):
        raise DomainError("family.unknown", family=port.release.family.name)
    patches.require_kept(port.version)
    if port.state != "ready":
        raise DomainError("port.not_ready", state=port.state)
    return port


def _state(findings: Sequence[Finding], version: PatchVersion, force: str | None) -> str:
    refusals = {f.code for f in findings if f.severity == "refuse"}
    if refusals - (ARGUABLE if force else frozenset()):
        return "refused"
    return "held" if version.trained_on is None else "ready"
