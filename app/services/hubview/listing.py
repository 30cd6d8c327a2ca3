"""The list of repositories: a patch and its merged models one after the other, newest patches first, then the bases."""

from dataclasses import dataclass, field
from typing import NamedTuple

from app.db import families as family_rows
from app.db import hub_listing as rows
from app.db import ports
from app.db.hub_listing import Line
from app.domain.principal import Principal
from app.domain.repositories import BASE, Repository
from app.services.access import grants
from app.services.unit_of_work import UnitOfWork

PATCHES, FAMILIES = "p", "f"
# Of a base model, as clients write it in a filter.
MADE_OF = "base_model:"
SCANNED = 10  # pages that are looked through for one, where few fit


@dataclass(frozen=True)
class ListingFilter:
    """What is asked for; `base` is a full name such as base/llama."""

    author: str | None = None
    search: str | None = None
    base: str | None = None
    kinds: frozenset[str] = field(default=frozenset({"base", "patch", "merged"}))


class ListedRepository(NamedTuple):
    """A repository in a list."""

    repository: Repository
    line: Line


def list_page(
    uow: UnitOfWork, principal: Principal, wanted: ListingFilter, after: str | None, limit: int
) -> tuple[list[ListedRepository], str | None]:  # fmt: skip
    """Some repositories, at most twice `limit`, and where the next page begins; None at the end.

    Args:
        uow: the transaction.
        principal: who asks.
        wanted: what.
        after: where this page begins, as the page before said.
        limit: how many patches or families are looked through for it; a page may hold none, and still not be the last.
    """
    part, _, ident = (after or "").partition("_after_")
    found = list[ListedRepository]()
    for _ in range(SCANNED):
        lines = _lines(uow, principal, wanted, part or PATCHES, ident or None, limit)
        found += _shown(uow, principal, wanted, lines[:limit])
        if len(lines) > limit:
            part, ident = part or PATCHES, lines[limit - 1].id
        elif (part or PATCHES) == PATCHES:
            part, ident = FAMILIES, ""
        else:
            return found, None
        if len(found) >= limit:
            break
    return found, f"{part}_after_{ident}"


def _lines(
    uow: UnitOfWork, principal: Principal, wanted: ListingFilter, part: str, after: str | None, limit: int
) -> list[Line]:  # fmt: skip
    """One more than `limit`."""
    if part == FAMILIES:
        if "base" not in wanted.kinds or wanted.author not in (None, BASE) or wanted.base is not None:
            return []
        return rows.families(uow.session, principal.grantee, wanted.search, after, limit + 1)
    owner = wanted.author if principal.is_admin else principal.owner
    if not wanted.kinds & {"patch", "merged"} or (wanted.author is not None and wanted.author != owner):
        return []
    family = _family(uow, principal, wanted.base) if wanted.base is not None else None
    if wanted.base is not None and family is None:
        return []
    return rows.patches(uow.session, owner, family, wanted.search, after, limit + 1)


def _shown(uow: UnitOfWork, principal: Principal, wanted: ListingFilter, lines: list[Line]) -> list[ListedRepository]:
    visible = None if principal.is_admin else rows.visible_families(uow.session, principal.owner)
    carried = ports.with_ports(uow.session, [line.id for line in lines if line.owner]) if "merged" in wanted.kinds else set()
    found = list[ListedRepository]()
    for line in lines:
        if line.owner is None:
            found.append(ListedRepository(Repository("base", BASE, line.name), line))
            continue
        if "patch" in wanted.kinds:
            found.append(ListedRepository(Repository("patch", line.owner, line.name), line))
        if line.id in carried and (visible is None or line.family_id in visible):
            found.append(ListedRepository(Repository("merged", line.owner, line.name), line))
    return [one for one in found if not wanted.search or wanted.search.lower() in one.repository.full_name]


def _family(uow: UnitOfWork, principal: Principal, full_name: str) -> str | None:
    """The id of the family that a base model's name means, where the principal may see it."""
    owner, _, name = full_name.partition("/")
    family = family_rows.by_name(uow.session, name) if owner == BASE else None
    return family.id if family and grants.is_visible(uow, principal, family.id) else None
