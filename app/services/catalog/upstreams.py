"""Upstreams: hubs that the installation pulls from; the Hugging Face Hub is there from the start."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.db import upstreams as rows
from app.db.base import now
from app.db.upstreams import Upstream
from app.domain.errors import DomainError
from app.domain.events.access import UpstreamPut, UpstreamRemoved
from app.domain.ids import new_id
from app.domain.names import MAX_NAME, check_name
from app.domain.principal import INSTALLATION, Principal
from app.domain.upstreams import HUB, HUB_ENDPOINT, Hub, check_endpoint
from app.services.access import encryption
from app.services.unit_of_work import UnitOfWork

RESERVED = frozenset({"push", "s3", "file"})  # what sources of releases begin with that are no upstream's


@dataclass(frozen=True)
class Shown:
    """An upstream as people see it: everything but its token.

    Attributes:
        has_token: whether a token is kept for it.
        built_in: whether it is there without anybody having added it.
    """

    name: str
    endpoint: str
    has_token: bool
    private_hosts: tuple[str, ...]
    http_hosts: tuple[str, ...]
    publishers: bool
    built_in: bool


_BUILT_IN = Shown(HUB, HUB_ENDPOINT, False, (), (), publishers=True, built_in=True)


def put(
    uow: UnitOfWork, principal: Principal, name: str, endpoint: str, token: str | None, private_hosts: Sequence[str],
    http_hosts: Sequence[str], publishers: bool,
) -> tuple[Shown, bool]:  # fmt: skip
    """Adds an upstream, or says everything about it anew: a token that is not given again is forgotten.

    Returns:
        The upstream, and whether it is new.

    Raises:
        DomainError: token.scope, request.name, upstream.endpoint.
    """
    principal.require_admin()
    check_name(name, "an upstream")
    if name in RESERVED:
        raise DomainError("request.name", name=name, what="an upstream", reason="it is reserved", limit=MAX_NAME)
    address = check_endpoint(endpoint, http_hosts)
    row = rows.by_name(uow.session, name)
    is_new = row is None
    if row is None:
        row = Upstream(id=new_id("ups"), created_at=now(), name=name)
    else:
        uow.lock(row)
        row.row_version += 1
    row.endpoint, row.publishers = address, publishers
    row.private_hosts, row.http_hosts = list(private_hosts), list(http_hosts)
    row.token = encryption.seal(uow.tools.secret_keys, encryption.place_of(row), token) if token else None
    uow.add(row)
    uow.event(UpstreamPut(endpoint=address, has_token=bool(token), publishers=publishers), principal, INSTALLATION, name)
    return _shown(row), is_new


def remove(uow: UnitOfWork, principal: Principal, name: str) -> Shown:
    """Forgets an upstream with its token; what was pulled from it stays. The Hub is then as it was from the start."""
    principal.require_admin()
    row = rows.by_name(uow.session, name)
    if row is None:
        raise DomainError("upstream.unknown", upstream=name[:100])
    shown = _shown(row)
    uow.session.delete(row)
    uow.session.flush()
    uow.event(UpstreamRemoved(), principal, INSTALLATION, name)
    return shown


def get(uow: UnitOfWork, principal: Principal, name: str) -> Shown:
    principal.require_admin()
    row = rows.by_name(uow.session, name)
    if row is None and name != HUB:
        raise DomainError("upstream.unknown", upstream=name[:100])
    return _shown(row) if row else _BUILT_IN


def list_all(uow: UnitOfWork, principal: Principal) -> list[Shown]:
    """All of them, by name."""
    principal.require_admin()
    found = {row.name: _shown(row) for row in rows.everything(uow.session)}
    return [({HUB: _BUILT_IN} | found)[name] for name in sorted({HUB, *found})]


def require_usable(uow: UnitOfWork, principal: Principal, name: str) -> None:
    """Raises `DomainError` (upstream.unknown, upstream.closed) unless the principal may have something pulled from there.

    An upstream that an admin added is for admins unless it was opened: whoever pulls through it borrows its token, and
    reaches hosts that only this service reaches.
    """
    row = rows.by_name(uow.session, name)
    if row is None and name != HUB:
        raise DomainError("upstream.unknown", upstream=name[:100])
    if not principal.is_admin and row is not None and not row.publishers:
        raise DomainError("upstream.closed", upstream=name)


def hub(uow: UnitOfWork, name: str) -> Hub:
    """An upstream with its token, for a client; nothing is asked about leave here.

    Raises:
        DomainError: upstream.unknown; secret.key, secret.damaged.
    """
    row = rows.by_name(uow.session, name)
    if row is None and name != HUB:
        raise DomainError("upstream.unknown", upstream=name[:100])
    if row is None:
        return Hub(HUB, HUB_ENDPOINT)
    token = encryption.unseal(uow.tools.secret_keys, encryption.place_of(row), row.token) if row.token else None
    return Hub(row.name, row.endpoint, token, tuple(row.private_hosts), tuple(row.http_hosts))


def _shown(row: Upstream) -> Shown:
    return Shown(
        row.name, row.endpoint, row.token is not None, tuple(row.private_hosts), tuple(row.http_hosts), row.publishers,
        built_in=False,
    )  # fmt: skip
