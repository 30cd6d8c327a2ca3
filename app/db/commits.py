"""Commits: the contents of a Hub repository at a revision; recorded once, never changed."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Index, String, UniqueConstraint, bindparam, delete, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.core.recipe import digest_of
from app.db.base import Base, Identified, page


class Commit(Identified, Base):
    """The files of one thing as clients of the Hub see them; never changed.

    Attributes:
        name: its commit id, 40 hex digits.
        kind: of what: "base" (a release), "patch" (a version), "adapter" (a version rewritten for a port's release), "merged".
        subject: id of the release, of the version, or of the port.
        root: id of the family or the patch, in whose repositories it can be named.
        files: [[path, size, etag]], by path.
        texts: what was generated, by path.
        card: what the card says in its front matter, as far as it is understood.
    """

    __tablename__ = "commits"
    __table_args__ = (UniqueConstraint("subject", "kind"), Index("ix_commits_root_name", "root", "name"))

    name: Mapped[str] = mapped_column(String(40))
    kind: Mapped[str] = mapped_column(String(10))
    subject: Mapped[str] = mapped_column(String(40))
    root: Mapped[str] = mapped_column(String(40))
    files: Mapped[list[Any]]
    texts: Mapped[dict[str, Any]]
    card: Mapped[dict[str, Any]]


def name_of(files: Sequence[tuple[str, str]]) -> str:
    """The commit id of files, given as pairs of path and ETag: 40 hex digits, the same for the same files."""
    return digest_of(sorted(map(list, files)))[:40]


NOTHING = name_of(())  # of a repository that nothing was pushed to yet

_OF = select(Commit).where(Commit.subject == bindparam("subject"), Commit.kind == bindparam("kind"))
_NAMED = select(Commit).where(Commit.root == bindparam("root"), Commit.name == bindparam("name")).order_by(Commit.id)


def of(session: Session, kind: str, subject: str) -> Commit | None:
    return session.scalar(_OF, {"kind": kind, "subject": subject})


def named(session: Session, root: str, name: str) -> Sequence[Commit]:
    """All that have a commit id, oldest first: the same files have the same."""
    return session.scalars(_NAMED, {"root": root, "name": name}).all()


def names(session: Session, kind: str, subjects: Sequence[str]) -> dict[str, str]:
    """Commit ids by subject, of those that have one."""
    query = select(Commit.subject, Commit.name).where(Commit.kind == kind, Commit.subject.in_(subjects))
    return dict(session.execute(query).tuples().all())


def forget(session: Session, subjects: Sequence[str]) -> None:
    """Forgets what was written down about versions or ports."""
    for start in range(0, len(subjects), 100):
        session.execute(delete(Commit).where(Commit.subject.in_(subjects[start : start + 100])))


def count(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(Commit)) or 0


def everything(session: Session, after: str | None, limit: int) -> Sequence[Commit]:
    """One page of all commits."""
    return page(session, select(Commit), Commit, after, limit)


def get(session: Session, ident: str) -> Commit | None:
    return session.get(Commit, ident)
