"""What a route needs of who calls it; each surface has its table, and a route that is in none is not mounted."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from app.http.access import get_access
from app.http.signed_auth import get_bearer, get_sender

Scope = Literal["none", "signed", "read", "publish", "operate", "admin"]
Whose = Literal["anybody", "installation", "owner", "family", "holder"]


class Rule(NamedTuple):
    """What a route needs.

    Attributes:
        scope: the least that a token needs; every token may read. `none`: no token is asked for, which is said here or nowhere.
            `signed`: leave that we signed, for just this, in place of a token.
        whose: what the route is about. `owner`: something of an owner, which for all others is not there (404).
            `installation`: what belongs to nobody in particular. `family`: the same, for those who may see the family.
            `anybody`: answers about the caller's own. `holder`: a token, which its holder may always end or replace.
    """

    scope: Scope
    whose: Whose


READ = Rule("read", "owner")
PUBLISH = Rule("publish", "owner")
OPEN = Rule("none", "anybody")
SIGNED = Rule("signed", "anybody")
OWN = Rule("read", "anybody")
ADMIN = Rule("admin", "installation")

# Dependencies that authenticate the caller.
GUARDS = frozenset({get_access, get_sender, get_bearer})
Rules = Mapping[str, Rule]  # by method and path, without the prefix


def require_rules(routes: Iterable[Any], rules: Rules, prefix: str = "") -> None:
    """Refuses to build an application with a route that has no rule: whoever adds one must say who may call it.

    Raises:
        RuntimeError: names the route.
    """
    for route in routes:
        for method in route.methods:
            if f"{method} {route.path.removeprefix(prefix)}" not in rules:
                raise RuntimeError(f"{method} {route.path} has no rule in the rules.py of its surface")


def is_open(route: Any, rules: Rules, prefix: str = "") -> bool:
    """Whether a route is one that asks for no token, by all its methods."""
    found = [rules.get(f"{method} {route.path.removeprefix(prefix)}") for method in route.methods]
    return all(rule is not None and rule.scope == "none" for rule in found)


def require_guards(routes: Iterable[Any], rules: Rules, prefix: str = "") -> None:
    """Refuses to build an application with an unauthenticated route, unless its rule declares it open.

    Raises:
        RuntimeError: names the route.
    """
    for route in routes:
        asks = bool(guards_of(route.dependant))
        if not asks and not is_open(route, rules, prefix):
            raise RuntimeError(f"{route.path} asks for no token")
        if asks and is_open(route, rules, prefix):
            raise RuntimeError(f"{route.path} asks for a token, and its rule says that it is open")


def guards_of(dependant: Any) -> set[Any]:
    """Returns the dependencies of an endpoint that authenticate the caller."""
    found = {dependant.call} & GUARDS
    return found.union(*map(guards_of, dependant.dependencies))
