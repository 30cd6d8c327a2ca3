"""What is still to be pulled: the files of releases that are on their way here from an upstream."""

from typing import Any

from sqlalchemy import ForeignKey, delete
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base


class Pull(Base):
    """The listing that a release was registered with; there until the release is ready.

    Apart from the release, because it can have thousands of lines and releases are read all the time.

    Attributes:
        files: [[path, size in bytes, sha256 or null, git sha1 or null]], see `app.domain.upstreams.HubFile`.
    """

    __tablename__ = "pulls"

    release_id: Mapped[str] = mapped_column(ForeignKey("releases.id"), primary_key=True)
    files: Mapped[list[Any]]


def of_release(session: Session, release_id: str) -> Pull | None:
    return session.get(Pull, release_id)


def forget(session: Session, release_id: str) -> None:
    session.execute(delete(Pull).where(Pull.release_id == release_id))
