"""Small servers on this machine that answer with whatever bytes a test wants, also with TLS."""

import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Send = Callable[[bytes], None]
Answer = Callable[[bytes, Send], None]


@dataclass
class Site:
    """A server; `requests` are the heads that it was sent, bodies included where they came with them."""

    port: int
    requests: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def site(answer: Answer | bytes, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Site]:
    """Serves until the block ends.

    Args:
        answer: the bytes of every answer, or what gives them: it is told a request and how to send.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        served = Site(listener.getsockname()[1])

        def serve(plain: socket.socket) -> None:
            with suppress(OSError), tls.wrap_socket(plain, server_side=True) if tls else plain as connection:
                request = b""
                while b"\r\n\r\n" not in request and (more := connection.recv(65536)):
                    request += more
                served.requests.append(request)
                connection.sendall(answer) if isinstance(answer, bytes) else answer(request, connection.sendall)

        def accept() -> None:
            with suppress(OSError):  # closed: the end
                while True:
                    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield served
        finally:
            listener.shutdown(socket.SHUT_RDWR)


def http(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """An answer as bytes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test's own, as files: `ca` to trust, and a context for a server of `name`."""

    ca: Path
    server: ssl.SSLContext


def authority(directory: Path, *names: str) -> Authority:
    """Makes an authority and a certificate of a server with these names (or addresses)."""
    key, ca = ec.generate_private_key(ec.SECP256R1()), directory / "ca.pem"
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    root = _certificate(own, own, key, key).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    ca.write_bytes(root.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    server_key, chain = ec.generate_private_key(ec.SECP256R1()), directory / "server.pem"
    leaf = _certificate(x509.Name([]), own, server_key, key).add_extension(_names(names), critical=True)
    chain.write_bytes(
        leaf.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        + server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return Authority(ca, context)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    present = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(present - dt.timedelta(hours=1)).not_valid_after(present + dt.timedelta(hours=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )  # fmt: skip


def _names(names: tuple[str, ...]) -> x509.SubjectAlternativeName:
    def general(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    return x509.SubjectAlternativeName([general(name) for name in names])
