"""Which addresses this service asks for others: the judgement of URLs, and of what names resolve to."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from app.domain.errors import DomainError

if TYPE_CHECKING:
    import httpx

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
SCHEMES = ("https", "http")
# Beside what Python calls not global, which grows from version to version (RFC 6890 and the registry of IANA).
SPECIAL_V4 = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "240.0.0.0/4")))
GLOBAL_V6 = IPv6Network("2000::/3")
# Protocols (Teredo among them), documentation, 6to4, documentation: those that carry an IPv4 address could carry any.
SPECIAL_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
# IPv4-compatible, IPv4-mapped, NAT64 (two), Teredo, 6to4.
CARRIERS = tuple(map(IPv6Network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")))
# What no name opens, only a network that is allowed: nobody's address, those of one link, and those at which clouds tell a
# machine its secrets (169.254.169.254, and by vendor fd00:ec2::254, 100.100.100.200, 168.63.129.16).
NEVER_BY_NAME = tuple(
    ip_network(text)
    for text in ("0.0.0.0/8", "::/128", "169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "100.100.100.200/32", "168.63.129.16/32")
)
LOOKUPS = threading.BoundedSemaphore(32)


@dataclass(frozen=True)
class Reach:
    """How far a request may go.

    Attributes:
        private_hosts: names or addresses that may lie in private networks or be this machine.
        networks: whose addresses are allowed whatever they are.
        http_hosts: names or addresses that may be asked without TLS.
        redirects: how many are followed; never from https to http.
        max_bytes: of a body, unpacked.
        connect_seconds, read_seconds: for a connection, and between two pieces of an answer.
        total_seconds: for all of it, names, redirects and the body's last byte included.
    """

    private_hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    http_hosts: frozenset[str] = frozenset()
    redirects: int = 0
    max_bytes: int = 2**20
    connect_seconds: float = 3.0
    read_seconds: float = 5.0
    total_seconds: float = 10.0

    def check_url(self, url: httpx.URL) -> None:
        """Raises `DomainError` (outgoing.refused) for a URL that is not asked, whatever its name resolves to."""
        host = canonical(url.raw_host.decode("ascii"))
        if url.scheme not in SCHEMES or not host:
            raise _refused(url, "it must be an https address")
        if url.userinfo:
            raise _refused(url, "it holds a user or a password")
        if url.scheme == "http" and host not in map(canonical, self.http_hosts):
            raise _refused(url, "it must begin with https://")
        if "%" in host or _is_odd_ipv4(host):
            raise _refused(url, "its host is written in a way that is not asked")
        if url.port is not None and not 0 < url.port < 65536:
            raise _refused(url, "it has no port that can be asked")

    def admits(self, host: str, address: Address) -> bool:
        """Whether an address that a host resolved to may be connected to."""
        if _is_in(address, self.networks):
            return True
        if _is_in(address, NEVER_BY_NAME):
            return False
        if is_global(address):
            return True
        is_named = canonical(host) in map(canonical, self.private_hosts)
        return is_named and not address.is_multicast and not _carries_ipv4(address)


def canonical(host: str) -> str:
    """A host as it is compared: lower case, without the dot that ends a full name, an IPv6 address without brackets."""
    return host.lower().rstrip(".").removeprefix("[").removesuffix("]")


def is_global(address: Address) -> bool:
    """Whether an address is one of the Internet's, and one machine's."""
    if isinstance(address, IPv6Address):
        return address in GLOBAL_V6 and not _is_in(address, SPECIAL_V6)
    return address.is_global and not address.is_multicast and not _is_in(address, SPECIAL_V4)


def resolve(host: str, port: int, seconds: float) -> Sequence[Address] | None:
    """The addresses of a name, in the order of the resolver, each once; None when that takes too long.

    The system's resolver knows no limit of ours: it is asked in a thread that nobody has to wait for, of which there are
    never more than a few.

    Raises:
        OSError: the name is not known.
    """
    if not LOOKUPS.acquire(timeout=seconds):
        return None
    answer: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answer.put([str(where[4][0]) for where in found])
        except (OSError, UnicodeError) as error:
            answer.put(error if isinstance(error, OSError) else OSError("no name"))
        finally:
            LOOKUPS.release()

    threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        found = answer.get(timeout=seconds)
    except queue.Empty:
        return None
    if isinstance(found, OSError):
        raise found
    return list(dict.fromkeys(ip_address(text.partition("%")[0]) for text in found))


def shown(url: httpx.URL) -> str:
    """A URL without what may be secret in it: user, password and query."""
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))[:200]


def _refused(url: httpx.URL, reason: str) -> DomainError:
    return DomainError("outgoing.refused", address=shown(url), reason=reason)


def _carries_ipv4(address: Address) -> bool:
    """Whether an IPv6 address stands for an IPv4 address, which was not judged (mapped, 6to4, NAT64, Teredo)."""
    if not isinstance(address, IPv6Address):
        return False
    return _is_in(address, CARRIERS) and not address.is_loopback


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)


def _is_odd_ipv4(host: str) -> bool:
    """2130706433, 0x7f.1, 0177.0.0.1: the resolver takes them for addresses that most readers do not see in them."""
    try:
        ip_address(host)
    except ValueError:
        pass
    else:
        return False
    try:
        socket.inet_aton(host)
    except OSError:
        return False
    return True
