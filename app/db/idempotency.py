"""Answers that were given under an Idempotency-Key."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Index, String, UniqueConstraint, delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.base import Base, Identified
from app.db.locks import advisory_lock


class IdempotentAnswer(Identified, Base):
    """One remembered answer; a token's keys are its own."""

    __tablename__ = "idempotency_answers"
    __table_args__ = (
        UniqueConstraint("token", "key"),
        Index("ix_idempotency_answers_location", "location"),
        Index("ix_idempotency_answers_created_at", "created_at"),
    )

    token: Mapped[str] = mapped_column(String(40))
    owner: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(200))
    request: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    body: Mapped[dict[str, Any]]
    location: Mapped[str] = mapped_column(String(500))


def find(session: Session, token: str, key: str) -> IdempotentAnswer | None:
    return session.scalar(select(IdempotentAnswer).where(IdempotentAnswer.token == token, IdempotentAnswer.key == key))


def wait(session: Session, token: str, key: str) -> None:
    """Waits until nobody else is at work on a key; it is this transaction's until its end."""
    advisory_lock(session, f"portllm:key:{token}:{key}")


def forget_about(session: Session, locations: Sequence[str]) -> None:
    """Forgets what was answered about things that lie at these places."""
    for start in range(0, len(locations), 100):
        session.execute(delete(IdempotentAnswer).where(IdempotentAnswer.location.in_(locations[start : start + 100])))
