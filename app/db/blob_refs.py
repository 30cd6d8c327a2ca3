"""References: which rows keep which bytes. They follow from `app.db.blob_nouns`, and are written in the transaction of the row.

The previous version does not write references, and may run beside this one during an upgrade. A transaction that removes bytes
therefore first registers the rows without references (`register`), so that a missing reference never causes a loss of bytes.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Index, String, case, delete, event, exists, func, inspect, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.orm.attributes import get_history

from app.db.base import Base, is_embedded
from app.db.blob_nouns import NOUNS, Noun, ReadManifest

FETCHED = 500
_CHANGED = "portllm_blob_refs"  # in `Session.info`: primary keys of changed rows, by noun


class BlobRef(Base):
    """A row of a noun keeps the bytes with a digest.

    Attributes:
        noun, row_id: the name of the noun and the primary key of the row.
        owner: the owner of the row.
        size: the size of the bytes, if the row records it.
    """

    __tablename__ = "blob_refs"
    __table_args__ = (Index("ix_blob_refs_noun_row_id", "noun", "row_id"),)

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    noun: Mapped[str] = mapped_column(String(16), primary_key=True)
    row_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    size: Mapped[int | None] = mapped_column(BigInteger)


def watch(sessions: sessionmaker[Session]) -> None:
    """Records which rows of `NOUNS` these sessions change, for `write`. Statements that bypass the ORM are not recorded."""
    event.listen(sessions, "after_flush", _note)


def _note(session: Session, _: Any) -> None:
    for row in (*session.new, *session.dirty, *session.deleted):
        for noun in NOUNS:
            deciding = [attribute.key for attribute in noun.decided_by if isinstance(row, attribute.parent.class_)]
            if deciding and (row in session.deleted or any(get_history(row, key).has_changes() for key in deciding)):
                (ident,) = inspect(row).mapper.primary_key_from_instance(row)
                session.info.setdefault(_CHANGED, {}).setdefault(noun, set()).add(ident)


def write(session: Session, read_manifest: ReadManifest) -> None:
    """Replaces the references of the rows that this transaction has changed; called once, before it commits."""
    session.flush()
    changed: dict[Noun, set[str]] = session.info.pop(_CHANGED, {})
    for noun, idents in changed.items():
        session.execute(delete(BlobRef).where(BlobRef.noun == noun.name, BlobRef.row_id.in_(idents)))
        _insert(session, noun, session.scalars(select(noun.model).where(noun.key.in_(idents), noun.keeps)).all(), read_manifest)


def _insert(session: Session, noun: Noun, rows: Sequence[Any], read_manifest: ReadManifest) -> None:
    found = [
        {"digest": digest, "noun": noun.name, "row_id": noun.id_of(row), "owner": noun.owner(row), "size": size}
        for row in rows
        for digest, size in {content.digest: content.size for content in noun.contents(row, read_manifest)}.items()
    ]  # fmt: skip
    if found:  # another process may register the same row
        insert = sqlite.insert if is_embedded(session) else postgresql.insert
        session.execute(insert(BlobRef).on_conflict_do_nothing(), found)


def register(session: Session, noun: Noun, read_manifest: ReadManifest, after: str = "", limit: int | None = None) -> str | None:
    """Writes the references of rows that have none, and of rows whose list may have changed (`Noun.relists`).

    Args:
        session: a session that may write.
        noun: the kind of rows.
        read_manifest: returns manifests of releases.
        after: only rows with a greater primary key.
        limit: the maximum number of rows.

    Returns:
        The primary key after which the next call continues; None at the end.
    """
    registered = exists().where(BlobRef.noun == noun.name, BlobRef.row_id == noun.key)
    query = select(noun.model).where(noun.keeps, noun.key > after).order_by(noun.key).limit(limit)
    rows = session.scalars(query if noun.relists else query.where(~registered)).all()
    _insert(session, noun, rows, read_manifest)
    return noun.id_of(rows[-1]) if limit and len(rows) == limit else None


def stale(session: Session) -> list[tuple[str, str, int]]:
    """Returns stale references as (noun, row, number of references): their row is gone or no longer keeps bytes."""
    query = select(BlobRef.noun, BlobRef.row_id, func.count()).group_by(BlobRef.noun, BlobRef.row_id)
    return [found for noun in NOUNS for found in session.execute(query.where(*_stale(noun))).tuples()]


def drop_stale(session: Session) -> None:
    """Deletes stale references."""
    for noun in NOUNS:
        session.execute(delete(BlobRef).where(*_stale(noun)).execution_options(synchronize_session=False))


def _stale(noun: Noun) -> tuple[Any, ...]:
    return BlobRef.noun == noun.name, ~exists(select(noun.key).where(noun.key == BlobRef.row_id, noun.keeps))


def referenced(session: Session, digests: Collection[str]) -> set[str]:
    """Returns the subset of the digests that any row references."""
    return set(session.scalars(select(BlobRef.digest).where(BlobRef.digest.in_(digests)).distinct()))


def holders(session: Session, noun: Noun, digests: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yields (digest, row) for each row of a noun that keeps one of the digests."""
    query = select(BlobRef.digest, noun.model).join(noun.model, noun.key == BlobRef.row_id).options(*noun.loads)
    query = query.where(BlobRef.noun == noun.name, BlobRef.digest.in_(digests), noun.keeps).order_by(noun.key)
    yield from session.execute(query.execution_options(yield_per=FETCHED)).tuples()


def page(session: Session, noun: Noun, after: str, limit: int) -> list[tuple[Any, set[str]]]:
    """Returns a page of the rows of a noun that keep bytes, each with its referenced digests."""
    rows = session.scalars(select(noun.model).where(noun.keeps, noun.key > after).order_by(noun.key).limit(limit)).all()
    found: dict[str, set[str]] = {noun.id_of(row): set() for row in rows}
    query = select(BlobRef.row_id, BlobRef.digest).where(BlobRef.noun == noun.name, BlobRef.row_id.in_(found))
    for ident, digest in session.execute(query):
        found[ident].add(digest)
    return [(row, found[noun.id_of(row)]) for row in rows]


class StoredBlob(NamedTuple):
    """Bytes that must be in the store, with the smallest and the largest size that rows record for them."""

    digest: str
    least: int | None
    most: int | None


_IS_STORED = BlobRef.noun.in_([noun.name for noun in NOUNS if noun.is_stored])
# HAVING, not WHERE: with a WHERE condition, SQLite would read and sort all rows of these nouns for each page.
_STORED = (
    select(BlobRef.digest, func.min(case((_IS_STORED, BlobRef.size))), func.max(case((_IS_STORED, BlobRef.size))))
    .group_by(BlobRef.digest)
    .having(func.max(case((_IS_STORED, 1), else_=0)) == 1)
)


def stored_page(session: Session, after: str, limit: int) -> list[StoredBlob]:
    """Returns a page of the bytes that must be in the store, ordered by digest."""
    return [
        StoredBlob(*row) for row in session.execute(_STORED.where(BlobRef.digest > after).order_by(BlobRef.digest).limit(limit))
    ]


def stored_totals(session: Session) -> tuple[int, int]:
    """Returns the number of distinct blobs that must be in the store, and their total size."""
    blobs = _STORED.subquery()
    count, size = session.execute(select(func.count(), func.sum(blobs.c[2])).select_from(blobs)).one()
    return count, int(size or 0)
