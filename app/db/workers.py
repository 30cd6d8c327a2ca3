"""Workers: processes that run jobs."""

from typing import Any

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.db.heartbeats import Heartbeat


class Worker(Heartbeat, Base):
    """One worker process; its id is its executor id in the job engine.

    Attributes:
        class_name: the queue from which it takes jobs: cpu, gpu24, gpu80, ...
        url: the base URL of its own endpoints; None if it has none.
        device: the device that it computes on, "cpu" or the name of an accelerator.
        labels: free text by name, for display.
    """

    __tablename__ = "workers"
    __table_args__ = (Index("ix_workers_seen_at", "seen_at"),)

    class_name: Mapped[str] = mapped_column(String(40), index=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(String(40))
    url: Mapped[str | None] = mapped_column(String(500))
    device: Mapped[str] = mapped_column(String(200))
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    labels: Mapped[dict[str, Any]]
