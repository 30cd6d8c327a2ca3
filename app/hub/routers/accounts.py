"""Who asks: what `hf auth whoami` and a login want to know."""

from typing import Any

from fastapi.responses import JSONResponse

from app.http.access import AccessDep
from app.hub.routing import hub_router
from app.services.access import tokens

router = hub_router()


@router.get("/api/whoami-v2")
def whoami(access: AccessDep) -> JSONResponse:
    """The owner of the token as the account; roles in the Hub's words."""
    with access.read() as (uow, principal):
        token = tokens.own(uow, principal)
        displayed: dict[str, Any] = {"displayName": token.name or token.id, "role": _role(principal.scopes)}
        return JSONResponse({
            "type": "user", "id": principal.owner, "name": principal.owner, "fullname": principal.owner, "isPro": False,
            "orgs": [], "auth": {"type": "access_token", "accessToken": displayed},
        })  # fmt: skip


def _role(scopes: frozenset[str]) -> str:
    return "write" if scopes & {"publish", "admin"} else "read"
