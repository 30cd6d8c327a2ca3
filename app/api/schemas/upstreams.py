"""Bodies of upstreams."""

from typing import Annotated

from pydantic import Field, StringConstraints

from app.api.schemas.base import In, Out
from app.services.catalog.upstreams import Shown

Host = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9.:_\[\]-]+$")]
Hosts = Annotated[tuple[Host, ...], Field(max_length=20)]


class UpstreamIn(In):
    """All that is said of an upstream; what is left out is forgotten, its token too."""

    endpoint: Annotated[
        str,
        Field(min_length=1, max_length=500, description="As clients have it in HF_ENDPOINT.", examples=["https://hub.example"]),
    ]
    token: Annotated[
        str | None,
        Field(
            min_length=1, max_length=1000, pattern=r"^[!-~]+$", examples=["hf_xxxxxxxx"],
            description="Sent to the endpoint alone; kept encrypted, never shown.",
        ),
    ] = None  # fmt: skip
    private_hosts: Annotated[
        Hosts, Field(description="Names or addresses that may lie in a private network.", examples=[["hub.example"]])
    ] = ()
    http_hosts: Annotated[Hosts, Field(description="Those that may be asked without TLS.", examples=[[]])] = ()
    publishers: Annotated[
        bool, Field(description="Whether publishers may import patches from it, with its token; otherwise only admins may.")
    ] = False


class UpstreamOut(Out):
    """A hub that this registry pulls from."""

    name: Annotated[str, Field(examples=["hub"])]
    endpoint: Annotated[str, Field(examples=["https://hub.example"])]
    has_token: Annotated[bool, Field(examples=[True])]
    private_hosts: Annotated[list[str], Field(examples=[["hub.example"]])]
    http_hosts: Annotated[list[str], Field(examples=[[]])]
    publishers: Annotated[bool, Field(examples=[False])]
    built_in: Annotated[bool, Field(description="Whether it is there without anybody having added it.", examples=[False])]

    @classmethod
    def of(cls, found: Shown) -> "UpstreamOut":
        hosts = {"private_hosts": list(found.private_hosts), "http_hosts": list(found.http_hosts)}
        return cls(**{**vars(found), **hosts})


class UpstreamsOut(Out):
    """All upstreams; there are few."""

    items: list[UpstreamOut]
