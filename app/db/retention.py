"""Deletes finished rows by age, in batches."""

import datetime as dt
from typing import Any, cast

from sqlalchemy import CursorResult, Delete, String, Update, delete, func, select, update
from sqlalchemy import cast as sql_cast
from sqlalchemy.orm import Session

from app.db.idempotency import IdempotentAnswer
from app.db.imports import Import
from app.db.patches import PatchVersion


def imports(session: Session, moment: dt.datetime, limit: int) -> int:
    """Deletes imports that ended before a moment without creating a version, and clears the requester of the others.

    An import that created a version is kept: it is the version's provenance and prevents a second import of the same commit.
    """
    ended = select(Import.id).where(Import.finished_at < moment).order_by(Import.id).limit(limit)
    useless = ended.where(Import.state.in_(("refused", "cancelled", "present")))
    known = ended.where(Import.state == "imported", func.length(sql_cast(Import.asked_by, String)) > 2)
    deleted = _count(session, delete(Import).where(Import.id.in_(useless)))
    return deleted + _count(session, update(Import).where(Import.id.in_(known)).values(asked_by={}))


def discarded(session: Session, moment: dt.datetime, limit: int) -> int:
    """Deletes discarded drafts that were announced before a moment."""
    old = select(PatchVersion.id).where(PatchVersion.state == "discarded", PatchVersion.created_at < moment)
    return _count(session, delete(PatchVersion).where(PatchVersion.id.in_(old.order_by(PatchVersion.id).limit(limit))))


def idempotency_keys(session: Session, moment: dt.datetime, limit: int) -> int:
    """Deletes the recorded answers to requests with an Idempotency-Key that are older than a moment."""
    old = select(IdempotentAnswer.id).where(IdempotentAnswer.created_at < moment).order_by(IdempotentAnswer.id).limit(limit)
    return _count(session, delete(IdempotentAnswer).where(IdempotentAnswer.id.in_(old)))


def _count(session: Session, statement: Delete | Update) -> int:
    changed = session.execute(statement.execution_options(synchronize_session=False))
    return cast(CursorResult[Any], changed).rowcount
