"""A small OpenID Connect issuer on this machine: discovery, keys that rotate, tokens, and the device grant (RFC 8628)."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE, CLIENT = "portllm", "portllm-cli"
HERE = "127.0.0.1"
FAMILIES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
# RSA keys take long to make: one for all tests.
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
MAKE = {"RSA": lambda: RSA, "EC": lambda: ec.generate_private_key(ec.SECP256R1()), "OKP": ed25519.Ed25519PrivateKey.generate}


class Issuer:
    """One issuer; tests change what it says.

    Attributes:
        asked: paths of all requests, in order.
        answers: by path, (status, body as JSON or bytes, headers) in place of what it would say.
        open: cleared, it lets who asks wait until it is set again.
        device_answers: what it says to who polls, one after another; at the end an identity token.
        forms: what was posted.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: dict[str, Any] = {}
        self.jwks: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, Any, dict[str, str]]] = {}
        self.open = threading.Event()
        self.open.set()
        self.device_answers: list[dict[str, Any]] = []
        self.device_start: dict[str, Any] = {"interval": 0, "expires_in": 60}
        self.person: dict[str, Any] = {"sub": "ada", "groups": ["ml-team", "all"]}
        self.forms: list[dict[str, str]] = []
        self.rotate("first")

    def rotate(self, kid: str, algorithm: str = "ES256") -> None:
        """Signs with a new key from now on; the ones before are gone."""
        self.keys, self.jwks = {}, []
        self.add_key(kid, algorithm)

    def add_key(self, kid: str, algorithm: str = "ES256", **jwk: Any) -> None:
        """Signs with another key too."""
        private = MAKE[FAMILIES[algorithm[:2]]]()
        self.keys[kid] = (algorithm, private)
        public = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key()))
        self.jwks.append({**public, "kid": kid, "use": "sig", **jwk})

    def token(self, kid: str | None = None, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """An identity token; claims and headers that are None are left out."""
        kid = kid or next(reversed(self.keys))
        algorithm, private = self.keys[kid]
        said = {"kid": kid, **(headers or {})}
        return jwt.encode(self.claims(**claims), private, algorithm, {k: v for k, v in said.items() if v is not None})

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What a good token says, changed."""
        present = int(time.time())
        whole = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "iat": present, "exp": present + 300, **changes}
        return {name: value for name, value in whole.items() if value is not None}

    def setting(self, *rules: dict[str, Any], **more: Any) -> dict[str, Any]:
        """What PORTLLM_OIDC says of it."""
        return {
            "issuer": self.url, "audience": AUDIENCE, "client_id": CLIENT, "rules": list(rules) or [rule(groups="ml-team")],
            "private_hosts": [HERE], "http_hosts": [HERE], **more,
        }  # fmt: skip

    def answer(self, path: str, form: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        """(status, body, headers) of a request."""
        self.asked.append(path)
        if form:
            self.forms.append(form)
        self.open.wait(60)
        if path in self.answers:
            return self.answers[path]
        if path == "/.well-known/openid-configuration":
            return 200, {
                "issuer": self.url, "jwks_uri": f"{self.url}/keys", "token_endpoint": f"{self.url}/token",
                "device_authorization_endpoint": f"{self.url}/device",
            }, {}  # fmt: skip
        if path == "/keys":
            return 200, {"keys": self.jwks}, {}
        if path == "/device":
            start = {"device_code": "dev-1", "user_code": "WDJB-MJHT", "verification_uri": f"{self.url}/enter"}
            return 200, {**start, **self.device_start}, {}
        if path == "/token" and form.get("device_code") == "dev-1" and form.get("client_id") == CLIENT:
            if self.device_answers:
                return 400, self.device_answers.pop(0), {}
            return 200, {"id_token": self.token(aud=CLIENT, **self.person), "access_token": "opaque"}, {}
        return 404, {"error": "invalid_request"}, {}


def rule(owner: str = "acme", role: str = "publisher", **claims: Any) -> dict[str, Any]:
    """A rule of PORTLLM_OIDC."""
    return {"claims": claims, "owner": owner, "role": role}


@contextmanager
def issuing() -> Iterator[Issuer]:
    """An issuer that answers until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            form = {name: values[0] for name, values in parse_qs(self.rfile.read(length).decode()).items()}
            status, body, headers = issuer.answer(self.path, form)
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(sent))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent)
            except OSError:  # who asked did not wait
                self.close_connection = True

        do_POST = do_GET  # noqa: N815  http.server's name

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

    with ThreadingHTTPServer((HERE, 0), Handler) as server:
        server.daemon_threads = True
        issuer = Issuer(f"http://{HERE}:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield issuer
        finally:
            server.shutdown()
