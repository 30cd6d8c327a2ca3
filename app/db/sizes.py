"""Sums over everything that is stored, each read from an index alone."""

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.db.patches import LIVING, PatchVersion
from app.db.ports import Port
from app.db.releases import Release


def versions_by_state(session: Session) -> dict[str, tuple[int, int]]:
    """How many versions of patches are in each state, and the bytes of their files."""
    query = select(PatchVersion.state, func.count(), func.sum(PatchVersion.total_bytes)).group_by(PatchVersion.state)
    return {state: (count, int(size or 0)) for state, count, size in session.execute(query).tuples()}


def copied_release_bytes(session: Session) -> int:
    """The bytes of releases whose files are in the store."""
    return int(session.scalar(select(func.sum(Release.total_bytes)).where(Release.copied)) or 0)


def bytes_by_owner(session: Session, limit: int) -> dict[str, int]:
    """Owners with the most bytes in versions and drafts, at most `limit` of them."""
    size = func.sum(PatchVersion.total_bytes)
    query = select(PatchVersion.owner, size).where(PatchVersion.state.in_(LIVING)).group_by(PatchVersion.owner)
    found = session.execute(query.order_by(size.desc(), PatchVersion.owner).limit(limit)).tuples()
    return {owner: int(total or 0) for owner, total in found}


def ports_by_owner(session: Session, limit: int) -> dict[str, int]:
    """Owners with the most ports, in whatever state, at most `limit` of them."""
    count = func.count()
    query = select(Port.owner, count).group_by(Port.owner).order_by(count.desc(), Port.owner).limit(limit)
    return dict(session.execute(query).tuples().all())


def database_bytes(session: Session) -> int:
    """The size of the database on its disk."""
    if session.get_bind().dialect.name == "sqlite":
        pages, size = (session.scalar(text(f"PRAGMA {name}")) for name in ("page_count", "page_size"))
        return int(pages) * int(size)
    return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)
