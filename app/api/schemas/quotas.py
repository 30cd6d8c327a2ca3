"""Bodies of quotas and what owners have."""

from typing import Annotated

from pydantic import Field

from app.api.schemas.base import In, Out
from app.domain.quotas import KINDS, Kind
from app.services.access.quotas import Usage

MAX = 2**63


def limit(text: str, example: int) -> object:
    """What is said of a limit in a body."""
    return Field(ge=0, lt=MAX, description=f"{text}; 0: no limit, null: as for all owners.", examples=[example])


class QuotaIn(In):
    """Limits of one owner; what is left out stays as it is."""

    bytes: Annotated[int | None, limit("Bytes in versions and open drafts", 50_000_000_000)] = None
    patches: Annotated[int | None, limit("Patches", 100)] = None
    versions: Annotated[int | None, limit("Versions, yanked ones included", 1000)] = None
    drafts: Annotated[int | None, limit("Open drafts", 20)] = None
    ports: Annotated[int | None, limit("Ports that are not retired", 5000)] = None
    tokens: Annotated[int | None, limit("Valid tokens", 50)] = None
    jobs: Annotated[int | None, limit("Waiting jobs", 500)] = None

    def changes(self) -> dict[Kind, int | None]:
        """What was sent."""
        return {kind: getattr(self, kind) for kind in KINDS if kind in self.model_fields_set}


class AmountOut(Out):
    """How much of one kind an owner has and may have."""

    used: Annotated[int, Field(examples=[41_943_040])]
    limit: Annotated[int | None, Field(description="null: there is none.", examples=[50_000_000_000])]
    own: Annotated[bool, Field(description="Whether an admin set it for this owner.", examples=[True])]


class UsageOut(Out):
    """What an owner has and may have; bytes are those in versions and open drafts, counted once for each that names them."""

    owner: Annotated[str, Field(examples=["acme"])]
    bytes: AmountOut
    patches: AmountOut
    versions: AmountOut
    drafts: AmountOut
    ports: AmountOut
    tokens: AmountOut
    jobs: AmountOut

    @classmethod
    def of(cls, usage: Usage) -> "UsageOut":
        amounts = {
            kind: AmountOut(used=usage.used[kind], limit=usage.quota.of(kind) or None, own=usage.own[kind] is not None)
            for kind in KINDS
        }
        return cls(owner=usage.owner, **amounts)
