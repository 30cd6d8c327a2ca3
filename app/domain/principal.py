"""Who asks: every use case is called for a principal, and asks it for leave."""

from collections.abc import Collection
from dataclasses import dataclass

from app.domain.errors import DomainError

SCOPES = ("read", "publish", "operate", "admin")
# Names for sets of scopes. An operator runs an owner's affairs, its tokens among them; an admin those of the installation.
ROLES: dict[str, tuple[str, ...]] = {
    "reader": ("read",),
    "publisher": ("read", "publish"),
    "operator": ("read", "publish", "operate"),
    "admin": SCOPES,
}
INSTALLATION = "registry"  # owner of what belongs to nobody in particular: families, releases, their jobs


@dataclass(frozen=True, slots=True)
class Principal:
    """The bearer of a token: acts for one owner, within scopes.

    Attributes:
        token: its id; of a job's own acts, the job's.
        address, request: where a request came from and its id; None for what no request asked for.
    """

    owner: str
    scopes: frozenset[str]
    token: str
    address: str | None = None
    request: str | None = None

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    @property
    def grantee(self) -> str | None:
        """The owner whose family grants determine which families this principal may see; None for an admin, who may see all."""
        return None if self.is_admin else self.owner

    def can_read(self, owner: str) -> bool:
        """Patches, ports and jobs are private to their owner; an admin reads everything."""
        return self.is_admin or owner == self.owner

    def require_publish(self, owner: str) -> None:
        """Raises `DomainError` (token.scope) unless this principal may change what belongs to `owner`."""
        if not (self.is_admin or ("publish" in self.scopes and owner == self.owner)):
            raise DomainError("token.scope", scope="publish", owner=owner)

    def require_operate(self, owner: str) -> None:
        """Raises `DomainError` (token.scope) unless this principal runs the affairs of `owner`."""
        if not (self.is_admin or ("operate" in self.scopes and owner == self.owner)):
            raise DomainError("token.scope", scope="operate", owner=owner)

    def require_admin(self) -> None:
        """Raises `DomainError` (token.scope) unless this principal is an admin."""
        if not self.is_admin:
            raise DomainError("token.scope", scope="admin", owner=self.owner)


def check_scopes(scopes: Collection[str]) -> list[str]:
    """Scopes in canonical order; raises `DomainError` (token.scopes) for an unknown one."""
    for scope in scopes:
        if scope not in SCOPES:
            raise DomainError("token.scopes", scope=scope[:40])
    return [s for s in SCOPES if s in scopes]


def scopes_of(role: str) -> list[str]:
    """The scopes of a role; raises `DomainError` (token.role) for an unknown one."""
    if role not in ROLES:
        raise DomainError("token.role", role=role[:40])
    return list(ROLES[role])


def role_of(scopes: Collection[str]) -> str | None:
    """The role that has exactly these scopes, if there is one."""
    return next((role for role, named in ROLES.items() if set(named) == set(scopes)), None)
