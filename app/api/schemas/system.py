"""Bodies of tokens and events."""

from typing import Annotated, Any

from pydantic import Field

from app.api.schemas.base import In, Name, Out, Time
from app.db.events import Event
from app.db.tokens import Token


class TokenIn(In):
    """A token to make."""

    owner: Annotated[Name, Field(examples=["acme"])]
    scopes: Annotated[list[str], Field(min_length=1, max_length=3, examples=[["read", "publish"]])]
    name: Annotated[str, Field(max_length=200, examples=["ci"])] = ""


class TokenOut(Out):
    """A token, without its secret."""

    id: Annotated[str, Field(examples=["tok_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    owner: Annotated[str, Field(examples=["acme"])]
    name: Annotated[str, Field(examples=["ci"])]
    scopes: Annotated[list[str], Field(examples=[["read", "publish"]])]
    created_at: Time
    revoked_at: Time | None

    @classmethod
    def of(cls, row: Token) -> "TokenOut":
        return cls(
            id=row.id, owner=row.owner, name=row.name, scopes=row.scopes, created_at=row.created_at, revoked_at=row.revoked_at
        )


class NewTokenOut(TokenOut):
    """A token just made; the secret is shown this once."""

    token: Annotated[str, Field(examples=["plt_..."])]


class WhoAmIOut(Out):
    """Who the token speaks for."""

    owner: Annotated[str, Field(examples=["acme"])]
    scopes: Annotated[list[str], Field(examples=[["publish", "read"]])]


class EventOut(Out):
    """One thing that happened."""

    id: Annotated[int, Field(examples=[17])]
    at: Time
    kind: Annotated[str, Field(examples=["port.ready"])]
    owner: Annotated[str, Field(examples=["acme"])]
    subject: Annotated[str, Field(examples=["prt_0193a1b2c3d4e5f60718293a4b5c6d7e8f90"])]
    actor: Annotated[str, Field(examples=["acme"])]
    data: Annotated[dict[str, Any], Field(examples=[{"patch": "acme/tone", "version": 1, "release": "v2"}])]

    @classmethod
    def of(cls, row: Event) -> "EventOut":
        return cls(id=row.id, at=row.at, kind=row.kind, owner=row.owner, subject=row.subject, actor=row.actor, data=row.data)


class EventsOut(Out):
    """Events, oldest first; `cursor` is where to go on."""

    items: list[EventOut]
    cursor: Annotated[int, Field(examples=[17])]


class CodeOut(Out):
    """The documentation of an error code."""

    code: Annotated[str, Field(examples=["release.unknown"])]
    title: Annotated[str, Field(examples=["Unknown release"])]
    detail: Annotated[str, Field(examples=["Family {family!r} has no release {release!r}."])]
    remedy: Annotated[str, Field(examples=["List them with 'portllm ls releases'."])]
    status: Annotated[int, Field(examples=[404])]


class HealthOut(Out):
    """Whether the service answers."""

    status: Annotated[str, Field(examples=["ok"])]


class PartOut(Out):
    """How one part that the service stands on answered."""

    ok: Annotated[bool, Field(examples=[True])]
    milliseconds: Annotated[float, Field(examples=[1.2])]
    reason: Annotated[str | None, Field(description="Why it did not.", examples=[None])] = None


class ReadyOut(Out):
    """Whether the service can do its work, part by part."""

    status: Annotated[str, Field(examples=["ok"])]
    parts: Annotated[
        dict[str, PartOut],
        Field(examples=[{part: {"ok": True, "milliseconds": 1.2, "reason": None} for part in ("database", "blobs", "jobs")}]),
    ]
