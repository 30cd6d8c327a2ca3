"""The guarded client against real servers: where it does not go, and what an answer may cost it at most."""

import gzip
import itertools
import socket
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.clients import connections, guarded
from app.clients.addresses import Reach, is_global
from app.clients.guarded import Answer
from app.domain.errors import DomainError
from tests.support.sites import Send, authority, http, site

HERE = frozenset({"127.0.0.1"})
LOCAL = Reach(HERE, http_hosts=HERE, total_seconds=5.0)
SECRET = "sEcReT"
PRIVATE = """
127.0.0.1 127.9.9.9 0.0.0.0 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 192.0.0.8 192.0.2.1 198.18.0.1
198.51.100.1 203.0.113.1 224.0.0.1 240.0.0.1 255.255.255.255 192.88.99.1 168.63.129.16
:: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1::1
2002:808:808::1 3fff::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1
"""
# No name opens these.
NEVER = "169.254.1.1 fe80::1 224.0.0.1 0.0.0.0 ::ffff:10.0.0.1 64:ff9b::a00:1 fd00:ec2::254"


def ask(url: str, reach: Reach = LOCAL, **options: Any) -> Answer:
    return guarded.request("GET", url, reach, **options)


def refusal(url: str, reach: Reach = LOCAL, code: str = "outgoing.refused", **options: Any) -> DomainError:
    """The refusal of a request; it never shows what may be secret."""
    with pytest.raises(DomainError) as raised:
        ask(url, reach, **options)
    assert raised.value.code == code, raised.value
    assert SECRET not in str(raised.value) + str(raised.value.data)
    return raised.value


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Iterator[list[str]]]:
    """What names resolve to, answer by answer; everything else resolves as ever."""
    known: dict[str, Iterator[list[str]]] = {}
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host not in known:
            return real(host, port, *rest, **more)
        return [found for address in next(known[host]) for found in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return known


def test_allowed_request_returns_status_headers_and_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """Status, headers and body, also of an error; proxies of the environment have no say."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with site(http(b'{"a":1}', "404 Not Found", "X-Of: site")) as served:
        answer = guarded.request("POST", f"{served.url}/x?y=1", LOCAL, {"X-Mine": "1"}, b"body")
        assert (answer.status, answer.headers["x-of"], answer.body) == (404, "site", b'{"a":1}')
    (request,) = served.requests
    assert request.startswith(b"POST /x?y=1 HTTP/1.1\r\n")
    assert b"x-mine: 1\r\n" in request.lower()
    assert b"accept-encoding: identity\r\n" in request.lower()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "//example.com/", "https:///x", "nonsense", "https://[::1", "https://example.com:0/",
        "https://example.com:99999/", f"https://user:{SECRET}@example.com/", f"https://{SECRET}@example.com/", "http://example.com/",
        "https://[fe80::1%25eth0]/", "https://exa mple.com/", "https://\x00/",
    ],
)  # fmt: skip
def test_invalid_url_is_refused_without_a_lookup(url: str, names: dict[str, Iterator[list[str]]]) -> None:
    """By their form: no name is looked up for them."""
    names["example.com"] = iter(())
    refusal(url)


@pytest.mark.parametrize("host", ["2130706433", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "127.1", "0127.0.0.1", "134744072"])
def test_unusual_spelling_of_an_ipv4_address_is_refused(host: str) -> None:
    """Whatever they stand for, this machine or all the world's resolver (8.8.8.8)."""
    for scheme in ("https", "http"):
        refusal(f"{scheme}://{host}/", Reach(http_hosts=frozenset({host})))


@pytest.mark.parametrize("address", PRIVATE.split())
def test_private_address_is_refused(address: str) -> None:
    """Written in the URL, nothing is connected to."""
    began = time.monotonic()
    refused = refusal(f"https://{f'[{address}]' if ':' in address else address}/", Reach())
    assert "public Internet" in refused.detail
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("address", ["8.8.8.8", "192.30.255.113", "2606:4700::1111", "2a00:1450:4001:80b::200e"])
def test_public_address_is_allowed(address: str) -> None:
    assert is_global(ip_address(address))
    assert Reach().admits("anything.example", ip_address(address))


def test_allowed_host_may_be_private_but_not_link_local() -> None:
    """A name that is allowed may be private, but never the place where clouds keep a machine's secrets; a network may."""
    reach = Reach(frozenset({"Issuer.Corp."}), (ip_network("169.254.169.0/24"),))
    for address in ("10.0.0.1", "127.0.0.1", "::1", "fd12::1"):
        assert reach.admits("issuer.corp", ip_address(address))
        assert not reach.admits("other.corp", ip_address(address))
    for address in NEVER.split():
        assert not reach.admits("issuer.corp", ip_address(address))
    assert reach.admits("other.corp", ip_address("169.254.169.7"))


def test_host_that_resolves_to_a_private_address_is_refused(names: dict[str, Iterator[list[str]]]) -> None:
    """Nothing reaches the server; what it resolved to is not told."""
    with site(http(SECRET.encode())) as served:
        names["evil.example"] = itertools.repeat(["127.0.0.1"])
        refused = refusal(f"http://evil.example:{served.port}/", Reach(http_hosts=frozenset({"evil.example"})))
        assert "127.0.0.1" not in str(refused)
    assert served.requests == []


def test_host_is_resolved_once_against_rebinding(names: dict[str, Iterator[list[str]]]) -> None:
    """Rebinding: allowed when it is judged, another when it is connected to. It is asked once, and that answer counts."""
    with site(http(SECRET.encode())) as served:
        answers = iter([["127.0.0.9"], ["127.0.0.1"], ["127.0.0.1"]])
        names["evil.example"] = answers
        reach = Reach(networks=(ip_network("127.0.0.9/32"),), http_hosts=frozenset({"evil.example"}))
        refusal(f"http://evil.example:{served.port}/", reach, "outgoing.unreachable")
        assert len(list(answers)) == 2, "one question"
    assert served.requests == []


def test_only_allowed_addresses_of_a_host_are_connected_to(names: dict[str, Iterator[list[str]]]) -> None:
    """What is not allowed is passed over, in whatever order; a dead one does not hide the next."""
    with site(http(b"here")) as served:
        reach = Reach(networks=(ip_network("127.0.0.1/32"), ip_network("127.0.0.2/32")), http_hosts=frozenset({"two.example"}))
        names["two.example"] = iter([["127.0.0.3", "127.0.0.2", "127.0.0.1"]])
        assert ask(f"http://two.example:{served.port}/", reach).body == b"here"


def test_ipv6_literal_is_judged_by_its_address() -> None:
    with site(http(b"six"), host="::1") as served:
        url = f"http://[::1]:{served.port}/"
        assert ask(url, Reach(frozenset({"::1"}), http_hosts=frozenset({"::1"}))).body == b"six"
        refusal(url, Reach(http_hosts=frozenset({"::1"})))
    assert len(served.requests) == 1


def test_host_that_does_not_resolve_in_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver has no limit of ours, and is not waited for."""
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        if host == "slow.example":
            time.sleep(6)
        if host == "gone.example":
            raise socket.gaierror(-2, "Name or service not known")
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    refusal("https://gone.example/", code="outgoing.unreachable")
    began = time.monotonic()
    refusal("https://slow.example/", Reach(connect_seconds=0.3), "outgoing.timeout")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.2:{port}/", "http://169.254.169.254/latest/meta-data", "//127.0.0.2:{port}/", "http://[::1]:{port}/"],
)
def test_redirect_to_a_private_address_is_refused(target: str) -> None:
    """Each hop is judged like the first."""
    reach = Reach(HERE, http_hosts=HERE | {"127.0.0.2", "169.254.169.254", "::1"}, redirects=3)
    with site(http(SECRET.encode()), host="127.0.0.2") as inner:
        location = target.format(port=inner.port)
        with site(http(b"", "302 Found", f"Location: {location}")) as outer:
            assert "public Internet" in refusal(outer.url, reach).detail
    assert inner.requests == []


def test_redirects_are_not_followed_by_default() -> None:
    with site(http(b"x")) as inner, site(http(b"", "307 Temporary Redirect", f"Location: {inner.url}/")) as outer:
        assert "redirect" in refusal(outer.url).detail
        assert inner.requests == []


def test_allowed_redirects_are_followed_up_to_a_limit() -> None:
    """At most so many; a method is kept where the status says so; what is secret stays with its origin."""
    reach = Reach(HERE, http_hosts=HERE, redirects=2)
    sent = {"Authorization": f"Bearer {SECRET}", "Cookie": SECRET, "X-Api-Key": SECRET, "Accept": "text/plain"}

    def hop(status: str, then: bytes) -> Any:
        return lambda request, send: send(then if request.split()[1] == b"/next" else http(b"", status, "Location: /next"))

    with site(http(b"end")) as inner, site(hop("307 T", http(b"", "302 F", f"Location: {inner.url}/"))) as outer:
        answer = guarded.request("POST", outer.url, reach, sent, b"body")
        assert answer.body == b"end"
        first, same_origin = outer.requests
        (other_origin,) = inner.requests
        assert SECRET.encode() in first
        assert same_origin.startswith(b"POST /next")
        assert SECRET.encode() in same_origin
        assert other_origin.startswith(b"GET / ")
        assert SECRET.encode() not in other_origin
        assert b"text/plain" in other_origin
    with site(http(b"", "302 F", "Location: /again")) as circle:
        assert "one redirect after another" in refusal(circle.url, reach).detail
        assert len(circle.requests) == 3
    with site(http(b"", "302 F", "Location: http://[::1")) as broken:
        refusal(broken.url, reach, "outgoing.unreachable")


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An authority of the test's that is trusted, with a server's context for name.example."""
    made = authority(tmp_path, "name.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(made.ca))
    connections._tls.cache_clear()
    yield made.server
    connections._tls.cache_clear()


def test_tls_is_verified_against_the_name(trusted: Any, names: dict[str, Iterator[list[str]]]) -> None:
    """Though the address is what is connected to; another name, or no authority that is trusted, and nothing is sent."""
    names["name.example"] = names["other.example"] = itertools.repeat(["127.0.0.1"])
    reach = Reach(frozenset({"name.example", "other.example"}), redirects=1)
    with site(http(b"safe"), trusted) as served:
        assert ask(f"https://name.example:{served.port}/", reach).body == b"safe"
        assert "certificate" in refusal(f"https://other.example:{served.port}/", reach, "outgoing.unreachable").detail
        connections._tls.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("SSL_CERT_FILE")
            assert "certificate" in refusal(f"https://name.example:{served.port}/", reach, "outgoing.unreachable").detail
    assert len(served.requests) == 1
    connections._tls.cache_clear()


def test_redirect_from_https_to_http_is_refused(trusted: Any, names: dict[str, Iterator[list[str]]]) -> None:
    names["name.example"] = itertools.repeat(["127.0.0.1"])
    reach = Reach(HERE | {"name.example"}, http_hosts=HERE, redirects=1)
    with site(http(b"plain")) as plain, site(http(b"", "302 F", f"Location: {plain.url}/"), trusted) as safe:
        assert "not https" in refusal(f"https://name.example:{safe.port}/", reach).detail
        assert plain.requests == []


def drip(head: bytes, piece: bytes = b"x") -> Any:
    """Sends a little of an answer every now and then, for longer than anybody should wait."""

    def send(_: bytes, send: Send) -> None:
        send(head)
        for _ in range(100):
            send(piece)
            time.sleep(0.1)

    return send


@pytest.mark.parametrize(
    "answer",
    [
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"),
        drip(b"HTTP/1.1 200 OK\r\nX: "),
        drip(b""),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        lambda _, __: time.sleep(3),
    ],
)
def test_deadline_covers_the_whole_request(answer: Any) -> None:
    """No single wait is long; all of them together are."""
    with site(answer) as served:
        began = time.monotonic()
        refusal(served.url, Reach(HERE, http_hosts=HERE, read_seconds=0.6, total_seconds=0.8), "outgoing.timeout")
        assert time.monotonic() - began < 2.9


def test_server_that_does_not_speak_http_is_refused() -> None:
    for bad in (b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b""):
        with site(bad) as served:
            refusal(served.url, code="outgoing.unreachable")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    refusal(f"http://127.0.0.1:{port}/?token={SECRET}", code="outgoing.unreachable")


def test_endless_headers_are_refused() -> None:
    def send(_: bytes, send: Send) -> None:
        send(b"HTTP/1.1 200 OK\r\n")
        for number in range(100_000):
            send(f"X-{number}: {'y' * 1000}\r\n".encode())

    with site(send) as served:
        refusal(served.url, code="outgoing.unreachable")


def test_endless_body_is_refused() -> None:
    """Announced or not; no more of it is read than is allowed."""
    with site(http(b"x" * 5000)) as served:
        refusal(served.url, Reach(HERE, http_hosts=HERE, max_bytes=4999), "outgoing.too_large")
        assert len(ask(served.url, Reach(HERE, http_hosts=HERE, max_bytes=5000)).body) == 5000
    sent = []

    def endless(_: bytes, send: Send) -> None:
        send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            send(b"x" * 65536)
            sent.append(65536)

    with site(endless) as served:
        refusal(served.url, code="outgoing.too_large")
    assert sum(sent) < 2**26


def test_gzip_bomb_is_refused_in_bounded_memory() -> None:
    """A gigabyte in a megabyte: refused, and not much more memory than the limit was ever used for it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    zeros = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)  # a piece that can be repeated
    with site(http(gzip.compress(b"")[:10] + 64 * zeros, "200 OK", "Content-Encoding: gzip")) as served:
        tracemalloc.start()
        try:
            refusal(served.url, code="outgoing.too_large")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 2**23, peak


def test_gzip_body_is_unpacked() -> None:
    """gzip is unpacked, whole ones only; nothing else was asked for."""
    packed = gzip.compress(b"many words " * 100)
    with site(http(packed, "200 OK", "Content-Encoding: gzip")) as served:
        assert ask(served.url).body == b"many words " * 100
    for body, packing in ((packed[:-9], "gzip"), (b"no gzip", "gzip"), (packed, "br"), (packed, "gzip, gzip")):
        with site(http(body, "200 OK", f"Content-Encoding: {packing}")) as served:
            assert "packed" in refusal(served.url, code="outgoing.unreachable").detail


def test_errors_contain_no_secret() -> None:
    """Not in refusals, and not in their causes' sentences."""
    with site(b"nonsense\r\n\r\n") as served:
        url = f"{served.url}/path?key={SECRET}#{SECRET}"
        told = refusal(url, code="outgoing.unreachable", headers={"Authorization": SECRET}, content=SECRET.encode())
        assert told.data["address"] == f"{served.url}/path"
        assert SECRET not in repr(told.__cause__)
    assert isinstance(told.__cause__, Exception)
    assert not isinstance(told.__cause__, httpx.HTTPStatusError)


def drain(url: str, reach: Reach, taken: list[bytes]) -> None:
    """Takes all pieces of a stream."""
    with guarded.stream(url, reach) as answer:
        taken.extend(answer.pieces)


def test_stream_yields_pieces_and_headers() -> None:
    """With the headers of the first answer and of the last; a range goes on to where it is redirected, a token does not."""
    hosts = HERE | {"localhost"}
    reach = replace(LOCAL, private_hosts=hosts, http_hosts=hosts, redirects=1, max_bytes=10**6)
    headers = {"Range": "bytes=0-199999", "Authorization": f"Bearer {SECRET}"}
    with (
        site(http(bytes(200_000), "206 Partial Content", "X-Of: cdn")) as cdn,
        site(http(b"", "302 Found", f"Location: http://localhost:{cdn.port}/x", "X-Of: hub")) as hub,
        guarded.stream(f"{hub.url}/y", reach, headers) as answer,
    ):
        assert (answer.status, answer.first["x-of"], answer.headers["x-of"]) == (206, "hub", "cdn")
        pieces = list(answer.pieces)
    assert len(pieces) > 1
    assert b"".join(pieces) == bytes(200_000)
    assert b"range: bytes=0-199999" in cdn.requests[0].lower()
    assert SECRET.encode() not in cdn.requests[0]
    assert SECRET.encode() in hub.requests[0]


def test_stream_that_breaks_off_is_an_error_after_its_pieces() -> None:
    """What came before comes; then a refusal. Errors of whoever takes the pieces are their own."""

    def half(_: bytes, send: Send) -> None:
        send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + bytes(500))

    taken: list[bytes] = []
    with site(half) as served:
        with pytest.raises(DomainError) as raised:
            drain(served.url, LOCAL, taken)
        assert (raised.value.code, len(b"".join(taken))) == ("outgoing.unreachable", 500)
        with pytest.raises(OSError, match="my own disk"), guarded.stream(served.url, LOCAL):
            raise OSError("my own disk")


def test_endless_stream_is_refused() -> None:
    """Bounded in bytes and in time, like any answer."""

    def endless(_: bytes, send: Send) -> None:
        send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            send(bytes(65536))

    def slow(_: bytes, send: Send) -> None:
        send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            send(b"x")
            time.sleep(0.05)

    for answer, code in ((endless, "outgoing.too_large"), (slow, "outgoing.timeout")):
        with site(answer) as served, pytest.raises(DomainError) as raised:
            drain(served.url, replace(LOCAL, max_bytes=10**6, total_seconds=1.0), [])
        assert raised.value.code == code
