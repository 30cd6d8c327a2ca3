"""Bodies of tokens and events."""

import datetime as dt
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from app.api.schemas.base import In, Name, Out, Time
from app.db.events import Event
from app.db.tokens import Token
from app.domain.events.catalogue import CATALOGUE
from app.domain.events.reference import data_of
from app.domain.principal import role_of, scopes_of
from app.services.events.events import actor_of

DAY = 86_400
YEAR = 365 * DAY
Scope = Annotated[str, Field(max_length=40)]


class TokenIn(In):
    """A token to make."""

    owner: Annotated[Name, Field(examples=["acme"])]
    scopes: Annotated[list[Scope] | None, Field(min_length=1, max_length=4, examples=[["read", "publish"]])] = None
    role: Annotated[str | None, Field(max_length=40, description="Instead of scopes.", examples=[None])] = None
    name: Annotated[str, Field(max_length=200, examples=["ci"])] = ""
    expires_in: Annotated[
        int | None, Field(ge=60, le=10 * YEAR, description="Seconds; without it, valid until it is revoked.", examples=[7776000])
    ] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.scopes is None) == (self.role is None):
            raise ValueError("give either scopes or a role")
        return self

    def wanted(self) -> list[str]:
        """The scopes, or those of the role."""
        return self.scopes if self.scopes is not None else scopes_of(str(self.role))

    def lifetime(self) -> dt.timedelta | None:
        return None if self.expires_in is None else dt.timedelta(seconds=self.expires_in)


class RotateIn(In):
    """How a token ends when another takes its place."""

    grace: Annotated[int, Field(ge=0, le=30 * DAY, description="Seconds that the old one stays valid.", examples=[3600])] = 0


class TokenOut(Out):
    """A token, without its secret."""

    id: Annotated[str, Field(examples=["tok_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    owner: Annotated[str, Field(examples=["acme"])]
    name: Annotated[str, Field(examples=["ci"])]
    scopes: Annotated[list[str], Field(examples=[["read", "publish"]])]
    role: Annotated[str | None, Field(description="The role that has exactly these scopes.", examples=["publisher"])]
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    issuer: Annotated[
        str | None, Field(description="Of one exchanged for an identity token: who vouched.", examples=["https://issuer.example"])
    ]
    subject: Annotated[str | None, Field(description="And for whom.", examples=["repo:acme/tone:ref:refs/heads/main"])]
    made_by: Annotated[str | None, Field(description="Id of the token that it was made or rotated with.", examples=[None])]

    @classmethod
    def of(cls, row: Token) -> "TokenOut":
        return cls(
            id=row.id, owner=row.owner, name=row.name, scopes=row.scopes, role=role_of(row.scopes), created_at=row.created_at,
            expires_at=row.expires_at, revoked_at=row.revoked_at, issuer=row.issuer, subject=row.subject,
            made_by=row.made_by,
        )  # fmt: skip


class NewTokenOut(TokenOut):
    """A token just made; the secret is shown this once."""

    token: Annotated[str, Field(examples=["plt_..."])]


class WhoAmIOut(Out):
    """Who the token speaks for."""

    owner: Annotated[str, Field(examples=["acme"])]
    scopes: Annotated[list[str], Field(examples=[["publish", "read"]])]
    role: Annotated[str | None, Field(examples=["publisher"])]
    token: Annotated[str, Field(examples=["tok_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    expires_at: Time | None


_DATA = "\n".join(f"- `{name}`: {', '.join(data_of(kind)) or 'none'}. {kind.__doc__}" for name, kind in CATALOGUE.items())


class EventOut(Out):
    """One thing that happened."""

    id: Annotated[int, Field(examples=[17])]
    at: Time
    kind: Annotated[str, Field(examples=["port.ready"], json_schema_extra={"enum": list(CATALOGUE)})]
    owner: Annotated[str, Field(examples=["acme"])]
    subject: Annotated[str, Field(examples=["prt_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    actor: Annotated[str, Field(examples=["acme"])]
    data: Annotated[
        dict[str, Any],
        Field(description=_DATA, examples=[{"patch": "acme/tone", "version": 1, "release": "v2", "forced": False}]),
    ]

    @classmethod
    def of(cls, row: Event, for_admin: bool) -> "EventOut":
        return cls(
            id=row.id, at=row.at, kind=row.kind, owner=row.owner, subject=row.subject, actor=actor_of(row, for_admin),
            data=row.data,
        )  # fmt: skip


class AuditOut(EventOut):
    """One line of the audit trail."""

    token: Annotated[str | None, Field(examples=["tok_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    address: Annotated[str | None, Field(examples=["192.0.2.7"])]
    request: Annotated[str | None, Field(examples=["5f1d0c2b9a7e4f63"])]

    @classmethod
    def of(cls, row: Event, for_admin: bool) -> "AuditOut":
        event = EventOut.of(row, for_admin)
        return cls(**event.model_dump(), token=row.token, address=row.address, request=row.request)


class EventsOut(Out):
    """Events, oldest first; `cursor` is where to go on."""

    items: list[EventOut]
    cursor: Annotated[int, Field(examples=[17])]


class CodeOut(Out):
    """The documentation of the code of an error (with its HTTP status) or of a finding."""

    code: Annotated[str, Field(examples=["release.unknown"])]
    title: Annotated[str, Field(examples=["Unknown release"])]
    detail: Annotated[str, Field(examples=["Family {family!r} has no release {release!r}."])]
    remedy: Annotated[str, Field(examples=["List them with 'portllm ls releases'."])]
    status: Annotated[int | None, Field(examples=[404])]


class HealthOut(Out):
    """Whether the service answers."""

    status: Annotated[str, Field(examples=["ok"])]


class ComponentOut(Out):
    """How one part that the service stands on answered."""

    ok: Annotated[bool, Field(examples=[True])]
    milliseconds: Annotated[float, Field(examples=[1.2])]
    reason: Annotated[str | None, Field(description="Why it did not.", examples=[None])] = None


class ReadyOut(Out):
    """Whether the service can do its work, part by part."""

    status: Annotated[str, Field(examples=["ok"])]
    parts: Annotated[
        dict[str, ComponentOut],
        Field(examples=[{part: {"ok": True, "milliseconds": 1.2, "reason": None} for part in ("database", "blobs", "jobs")}]),
    ]
