"""Events about tokens, quotas and upstreams."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from app.domain.events.base import OwnerEvent, flattened
from app.domain.quotas import Kind

TOKEN, UPSTREAM = "id of the token", "name of the upstream"


class _NewToken(OwnerEvent):
    scopes: Sequence[str]
    expires_at: Annotated[str | None, "ISO 8601, if it expires"]
    issuer: Annotated[str | None, "issuer of the identity token"] = None
    subject: Annotated[str | None, "subject of the identity token"] = None
    rule: Annotated[int | None, "number of the issuer's rule that matched"] = None


class TokenCreated(_NewToken, kind="token.created", subject=TOKEN):
    """A token was created."""


class TokenExchanged(_NewToken, kind="token.exchanged", subject=TOKEN):
    """A token was created in exchange for an identity token."""


class TokenRotated(OwnerEvent, kind="token.rotated", subject=TOKEN):
    """A token was replaced by another one."""

    by: Annotated[str, "id of the new token"]


class TokenRevoked(OwnerEvent, kind="token.revoked", subject=TOKEN):
    """A token was revoked."""


class QuotaChanged(OwnerEvent, kind="quota.changed", subject="name of the owner"):
    """Quotas of an owner were set."""

    limits: Annotated[Mapping[Kind, int | None], "the changed limits, by kind; null restores the default"] = flattened()


class UpstreamPut(OwnerEvent, kind="upstream.put", subject=UPSTREAM):
    """An upstream hub was configured."""

    endpoint: Annotated[str, "URL of the upstream"]
    has_token: bool
    publishers: Annotated[bool, "whether publishers may import from it"]


class UpstreamRemoved(OwnerEvent, kind="upstream.removed", subject=UPSTREAM):
    """An upstream hub and its token were removed."""
