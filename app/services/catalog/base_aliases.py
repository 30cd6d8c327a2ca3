"""What others call our bases, and which family or release a patch was trained on by the name that it says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.db import base_aliases as rows
from app.db import families as family_rows
from app.db import releases as release_rows
from app.db.base import now
from app.db.base_aliases import BaseAlias, key_of
from app.db.families import Family
from app.db.releases import Release
from app.domain.errors import DomainError
from app.domain.events.families import FamilyNamed, FamilyUnnamed
from app.domain.ids import new_id
from app.domain.principal import INSTALLATION, Principal
from app.services.access import grants
from app.services.catalog import families, releases
from app.services.unit_of_work import UnitOfWork

OWN = "base/"  # how we name our families ourselves, as repositories
MAX_NAME, MAX_REVISION = 200, 100
_NAME = re.compile(r"[!-?A-~]{1,200}")  # what can be printed, but blanks and '@'
_REVISION = re.compile(r"[!-?A-~]{1,100}")


@dataclass(frozen=True)
class AliasTarget:
    """What a name means here; `release` is None where it tells the family alone."""

    family: Family
    release: Release | None


def add(
    uow: UnitOfWork, principal: Principal, family_name: str, name: str, revision: str | None, release_name: str | None
) -> tuple[BaseAlias, bool]:
    """Adds a base alias; idempotent: an identical alias is returned.

    Args:
        uow: the transaction.
        principal: an admin.
        family_name: the family that is meant.
        name: the upstream name: a repository, a quantised mirror, a directory.
        revision: the upstream revision; None: all revisions without an entry of their own.
        release_name: the release that the name means; None: only the family is known.

    Returns:
        The entry, and whether it is new.

    Raises:
        DomainError: family.unknown, release.unknown, request.name, base_alias.taken, token.scope.
    """
    principal.require_admin()
    family = families.get(uow, principal, family_name)
    _check(name, revision)
    release = releases.of_family(uow, family, release_name) if release_name else None
    found = rows.by_key(uow.session, key_of(name, revision))
    if found:
        if (found.family_id, found.release_id) != (family.id, release.id if release else None):
            meant = f"{found.family.name}/{found.release.name}" if found.release else found.family.name
            raise DomainError("base_alias.taken", name=name, family=found.family.name, meant=meant)
        return found, False
    found = BaseAlias(
        id=new_id("bas"), created_at=now(), owner=INSTALLATION, key=key_of(name, revision), name=name, revision=revision,
        family_id=family.id, release_id=release.id if release else None, family=family, release=release,
    )  # fmt: skip
    uow.add(found)
    uow.family_event(FamilyNamed(name=name, revision=revision), principal, family_name, release_name)
    return found, True


def remove(uow: UnitOfWork, principal: Principal, family_name: str, ident: str) -> BaseAlias:
    """Removes a base alias; versions that were published with it do not change.

    Raises:
        DomainError: family.unknown, base_alias.unknown, token.scope.
    """
    principal.require_admin()
    family = families.get(uow, principal, family_name)
    found = rows.get(uow.session, family.id, ident)
    if found is None:
        raise DomainError("base_alias.unknown", family=family_name, alias=ident[:100])
    uow.session.delete(found)
    uow.session.flush()
    uow.family_event(FamilyUnnamed(name=found.name, revision=found.revision), principal, family_name)
    return found


def list_page(uow: UnitOfWork, principal: Principal, family_name: str, after: str | None, limit: int) -> Sequence[BaseAlias]:
    return rows.list_page(uow.session, families.get(uow, principal, family_name).id, after, limit)


def find(uow: UnitOfWork, principal: Principal, name: str | None, revision: str | None) -> AliasTarget | None:
    """What `base_model_name_or_path` and `revision` of an adapter's configuration mean here, for this principal.

    `base/FAMILY` is ours, and its revision a release. Every other name is looked up with its revision first, then without.
    A family of which one release alone is ready is not ambiguous; of several, only a revision or an entry tells which.

    Returns:
        None where nothing here has that name that the principal may see.
    """
    if not name or not _NAME.fullmatch(name):  # other names were never published, and a database does not accept every character
        return None
    if name.startswith(OWN):
        family = family_rows.by_name(uow.session, name.removeprefix(OWN))
        if family is None or not grants.is_visible(uow, principal, family.id):
            return None
        return AliasTarget(family, _release(uow, family, revision))
    keys = ([key_of(name, revision)] if revision and _REVISION.fullmatch(revision) else []) + [key_of(name, None)]
    for key in keys:
        found = rows.by_key(uow.session, key)
        if found and grants.is_visible(uow, principal, found.family_id):
            return AliasTarget(found.family, found.release or _only(uow, found.family))
    return None


def _release(uow: UnitOfWork, family: Family, revision: str | None) -> Release | None:
    if not revision or revision == "main":
        return _only(uow, family)
    release = release_rows.by_name(uow.session, family.id, revision) if _REVISION.fullmatch(revision) else None
    return release if release and release.state == "ready" else None


def _only(uow: UnitOfWork, family: Family) -> Release | None:
    """The release of a family, where no other was ever there that could be meant."""
    ready, yanked = (release_rows.list_page(uow.session, family.id, state, None, 1) for state in ("ready", "yanked"))
    return ready[0] if len(ready) == 1 and not yanked else None


def _check(name: str, revision: str | None) -> None:
    if not _NAME.fullmatch(name):
        reason = "it is empty, too long, or holds blanks, an '@' or what is no ASCII"
        raise DomainError("request.name", name=name[:100], what="a name of a base", reason=reason, limit=MAX_NAME)
    if name.startswith(OWN):
        reason = "names that begin with 'base/' are families of this registry"
        raise DomainError("request.name", name=name, what="a name of a base", reason=reason, limit=MAX_NAME)
    if revision is not None and not _REVISION.fullmatch(revision):
        reason = "it is empty, too long, or holds blanks, an '@' or what is no ASCII"
        raise DomainError("request.name", name=revision[:100], what="a revision of a base", reason=reason, limit=MAX_REVISION)
