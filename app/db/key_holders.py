"""Key holders: which key each process signs with and which keys it accepts. Only names of keys are stored, never the keys."""

from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.heartbeats import Heartbeat


class KeyHolder(Heartbeat, Base):
    """One process of the installation.

    Attributes:
        role: "service" or "worker".
        signs: the name of the key that it signs with.
        accepts: the names of all keys whose signatures it accepts, including `signs`.
    """

    __tablename__ = "key_holders"

    role: Mapped[str] = mapped_column(String(20))
    signs: Mapped[str] = mapped_column(String(16))
    accepts: Mapped[list[Any]]
