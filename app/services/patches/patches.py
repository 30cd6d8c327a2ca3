"""Patches and their aliases."""

from app.db import aliases as alias_rows
from app.db import patches as rows
from app.db.aliases import Alias
from app.db.base import now
from app.db.patches import PURGED, Patch, PatchLine, PatchVersion
from app.domain.errors import DomainError
from app.domain.events.patches import AliasMoved, AliasRemoved, PatchChanged, PatchCreated
from app.domain.ids import new_id
from app.domain.names import check_patch, check_revision
from app.domain.principal import Principal
from app.services.access.quotas import open_account
from app.services.catalog import families, releases
from app.services.unit_of_work import UnitOfWork


def create(
    uow: UnitOfWork,
    principal: Principal,
    owner: str,
    name: str,
    family_name: str,
    description: str = "",
    trained_on: str | None = None,
    announced: bool = False,
) -> tuple[Patch, bool]:
    """Creates a patch; idempotent: an existing patch with this name in the same family is returned.

    Args:
        uow: the transaction.
        principal: the caller.
        owner: of the patch.
        name: of the patch.
        family_name: the family of the patch.
        description: for people.
        trained_on: the default for pushes that do not name the release that they were trained on.
        announced: whether it already counts against the owner's quota (`app.services.hubview.pushes`).

    Returns:
        The patch, and whether it is new.

    Raises:
        DomainError: request.name, token.scope, family.unknown, release.unknown, patch.taken, patch.differs, quota.exceeded.
    """
    full_name = check_patch(owner, name)
    principal.require_publish(owner)
    family = families.get(uow, principal, family_name)
    if trained_on is not None:
        releases.of_family(uow, family, trained_on)
    account = open_account(uow, owner, "patches")
    existing = rows.by_name(uow.session, owner, name)
    if existing and existing.family_id != family.id:
        raise DomainError("patch.taken", patch=full_name, family=existing.family.name)
    if existing:
        if (description and description != existing.description) or trained_on not in (None, existing.trained_on):
            raise DomainError("patch.differs", patch=full_name)
        return existing, False
    if not announced:
        account.charge(patches=1)
    patch = Patch(
        id=new_id("pat"), created_at=now(), owner=owner, name=name, family_id=family.id, description=description,
        trained_on=trained_on, family=family,
    )  # fmt: skip
    uow.add(patch)
    uow.event(PatchCreated(family=family_name), principal, owner, full_name)
    return patch, True


def get(uow: UnitOfWork, principal: Principal, owner: str, name: str) -> Patch:
    """A patch that the principal may read; others do not exist for it."""
    patch = rows.by_name(uow.session, owner, name) if principal.can_read(owner) else None
    if patch is None:
        raise DomainError("patch.unknown", patch=f"{owner}/{name}"[:200])
    return patch


def list_page(
    uow: UnitOfWork, principal: Principal, owner: str | None, family_name: str | None, after: str | None, limit: int
) -> list[PatchLine]:
    family = families.get(uow, principal, family_name) if family_name else None
    if not principal.is_admin:
        if owner not in (None, principal.owner):
            return []
        owner = principal.owner
    return rows.list_page(uow.session, owner, family.id if family else None, after, limit)


def change(
    uow: UnitOfWork, principal: Principal, owner: str, name: str, changes: dict[str, str | None], expected: int | None
) -> Patch:
    """Changes `description` or `trained_on`; `expected` is the row version that the caller read, if it cares.

    Raises:
        DomainError: patch.unknown, token.scope, release.unknown, request.changed.
    """
    patch = get(uow, principal, owner, name)
    principal.require_publish(owner)
    uow.lock(patch)
    uow.expect(patch, expected, patch.full_name)
    if (release := changes.get("trained_on")) is not None:
        releases.of_family(uow, patch.family, release)
    for field, value in changes.items():
        setattr(patch, field, value)
    patch.row_version += 1
    uow.event(PatchChanged(), principal, owner, patch.full_name)
    return patch


def resolve_version(uow: UnitOfWork, patch: Patch, reference: str | None) -> PatchVersion:
    """The version that a reference selects: a number, an alias, or nothing / "main" for the newest that is not yanked.

    Raises:
        DomainError: version.unknown, version.none, version.yanked, version.purged, alias.unknown.
    """
    version = find_version(uow, patch, reference)
    require_kept(version)
    if version.state == "yanked":
        raise DomainError("version.yanked", patch=patch.full_name, version=version.number, reason=version.yank_reason)
    return version


def require_kept(version: PatchVersion) -> None:
    """Raises `DomainError` (version.purged) for a tombstone."""
    if version.state == PURGED:
        raise DomainError(
            "version.purged", patch=version.patch.full_name, version=version.number, reason=version.purge_reason
        )  # fmt: skip


def find_version(uow: UnitOfWork, patch: Patch, reference: str | None) -> PatchVersion:
    """The version that a reference means, yanked or not: for looking at what is there, not for selecting it.

    Raises:
        DomainError: version.unknown, version.none, alias.unknown.
    """
    if reference is None or reference == "main":
        newest = rows.newest_version(uow.session, patch.id)
        if newest is None:
            raise DomainError("version.none", patch=patch.full_name)
        return newest
    if reference.isascii() and reference.isdigit() and len(reference) < 10:
        version = rows.version_by_number(uow.session, patch.id, int(reference))
        if version is None:
            raise DomainError("version.unknown", patch=patch.full_name, version=reference)
        return version
    alias = alias_rows.by_name(uow.session, patch.id, reference)
    if alias is None:
        raise DomainError("alias.unknown", patch=patch.full_name, alias=reference[:100])
    return alias.version


def set_alias(
    uow: UnitOfWork, principal: Principal, owner: str, name: str, alias_name: str, version: str, expected: int | None = None
) -> Alias:
    """Points an alias at a version; made if it is new."""
    patch = get(uow, principal, owner, name)
    principal.require_publish(owner)
    check_revision(alias_name, "an alias")
    uow.lock(patch)  # for all its aliases: one that is made now has no row to lock
    target = resolve_version(uow, patch, version)
    alias = alias_rows.by_name(uow.session, patch.id, alias_name)
    if expected is not None and (alias is None or alias.row_version != expected):
        raise DomainError("request.changed", what=f"{patch.full_name}@{alias_name}")
    if alias is None:
        alias = Alias(id=new_id("als"), created_at=now(), patch_id=patch.id, owner=owner, name=alias_name, version_id=target.id)
        alias.version = target
        uow.add(alias)
    elif alias.version_id != target.id:
        alias.version = target
        alias.row_version += 1
    uow.event(AliasMoved(version=target.number), principal, owner, f"{patch.full_name}@{alias_name}")
    return alias


def remove_alias(uow: UnitOfWork, principal: Principal, owner: str, name: str, alias_name: str) -> None:
    """Takes an alias away; the version that it pointed at stays.

    Raises:
        DomainError: patch.unknown, alias.unknown, token.scope.
    """
    patch = get(uow, principal, owner, name)
    principal.require_publish(owner)
    uow.lock(patch)
    alias = alias_rows.by_name(uow.session, patch.id, alias_name)
    if alias is None:
        raise DomainError("alias.unknown", patch=patch.full_name, alias=alias_name[:100])
    uow.session.delete(alias)
    uow.session.flush()
    uow.event(AliasRemoved(version=alias.version.number), principal, owner, f"{patch.full_name}@{alias_name}")


def aliases(uow: UnitOfWork, patch: Patch) -> dict[str, int | None]:
    """Version numbers by alias."""
    return alias_rows.numbers(uow.session, patch.id)
