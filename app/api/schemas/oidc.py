"""Bodies of the exchange of identity tokens."""

from typing import Annotated

from pydantic import Field

from app.api.schemas.base import In, Out
from app.domain.issuers import Issuer


class ExchangeIn(In):
    """An identity token to exchange."""

    token: Annotated[
        str,
        Field(min_length=1, max_length=65_536, description="A signed JSON Web Token of an issuer.", examples=["eyJhbGciOi..."]),
    ]
    lifetime: Annotated[
        int | None, Field(ge=60, description="Seconds that the token given out is valid; an hour by default.", examples=[3600])
    ] = None


class IssuerOut(Out):
    """An issuer that the registry trusts."""

    issuer: Annotated[str, Field(examples=["https://issuer.example"])]
    audience: Annotated[str, Field(description="What identity tokens must be made for.", examples=["portllm"])]
    client_id: Annotated[
        str | None, Field(description="For the device login of people; null where it offers none.", examples=["portllm-cli"])
    ]
    scopes: Annotated[list[str], Field(description="What a device login asks for.", examples=[["openid", "groups"]])]

    @classmethod
    def of(cls, trusted: Issuer) -> "IssuerOut":
        return cls(
            issuer=trusted.issuer, audience=trusted.audience, client_id=trusted.client_id, scopes=list(trusted.scopes)
        )  # fmt: skip


class OidcOut(Out):
    """How to come by a token without asking an admin."""

    issuers: list[IssuerOut]
