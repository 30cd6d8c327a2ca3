"""Totals over everything that is stored, each computed by an index-only scan."""

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.db.patches import LIVING, PatchVersion
from app.db.ports import Port
from app.db.releases import Release


def versions_by_state(session: Session) -> dict[str, tuple[int, int]]:
    """Returns, by state, how many patch versions there are and the total bytes of their files."""
    query = select(PatchVersion.state, func.count(), func.sum(PatchVersion.total_bytes)).group_by(PatchVersion.state)
    return {state: (count, int(size or 0)) for state, count, size in session.execute(query).tuples()}


def copied_release_bytes(session: Session) -> int:
    """Returns the total bytes of releases whose files were copied to the store."""
    return int(session.scalar(select(func.sum(Release.total_bytes)).where(Release.copied)) or 0)


def bytes_by_owner(session: Session, limit: int) -> dict[str, int]:
    """Returns the bytes in versions and drafts of the owners with the most, at most `limit` owners."""
    size = func.sum(PatchVersion.total_bytes)
    query = select(PatchVersion.owner, size).where(PatchVersion.state.in_(LIVING)).group_by(PatchVersion.owner)
    found = session.execute(query.order_by(size.desc(), PatchVersion.owner).limit(limit)).tuples()
    return {owner: int(total or 0) for owner, total in found}


def ports_by_owner(session: Session, limit: int) -> dict[str, int]:
    """Returns the number of ports, in any state, of the owners with the most, at most `limit` owners."""
    count = func.count()
    query = select(Port.owner, count).group_by(Port.owner).order_by(count.desc(), Port.owner).limit(limit)
    return dict(session.execute(query).tuples().all())


def database_bytes(session: Session) -> int:
    """Returns the size of the database on disk, in bytes."""
    if session.get_bind().dialect.name == "sqlite":
        pages, size = (session.scalar(text(f"PRAGMA {name}")) for name in ("page_count", "page_size"))
        return int(pages) * int(size)
    return int(session.scalar(text("SELECT pg_database_size(current_database())")) or 0)
