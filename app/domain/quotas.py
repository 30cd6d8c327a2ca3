"""Quotas: how much of what an owner may have."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["bytes", "patches", "versions", "drafts", "ports", "tokens", "jobs"]
# What each counts, as sentences say it.
KINDS: dict[Kind, str] = {
    "bytes": "bytes in versions and open drafts",
    "patches": "patches",
    "versions": "versions, yanked ones included",
    "drafts": "open drafts",
    "ports": "ports that are not retired",
    "tokens": "valid tokens",
    "jobs": "waiting jobs",
}


@dataclass(frozen=True)
class Quota:
    """How much an owner may have; 0: there is no limit."""

    bytes: int = 0
    patches: int = 0
    versions: int = 0
    drafts: int = 0
    ports: int = 0
    tokens: int = 0
    jobs: int = 0

    def of(self, kind: Kind) -> int:
        limit: int = getattr(self, kind)
        return limit

    def overridden(self, own: Mapping[Kind, int | None]) -> "Quota":
        """With what holds for one owner in place of these, where it is not None."""
        return replace(self, **{kind: limit for kind, limit in own.items() if limit is not None})
