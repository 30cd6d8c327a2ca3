"""`portllm login`, `logout` and `token exchange` against a real issuer and a real service."""

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.cli import credentials, device_login
from app.cli.client import RefusedError
from app.cli.credentials import Login
from app.cli.main import cli
from tests.support.issuer import CLIENT, Issuer, issuing, rule
from tests.support.service_process import Service, invoke

ABOUT = "/.well-known/openid-configuration"
FOREVER = "2100-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing() as running:
        yield running


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Service]:
    """A service that trusts the issuer and, as far as one can tell, another."""
    root = tmp_path_factory.mktemp("trusting")
    other = {**issuer.setting(rule(sub="x")), "issuer": "https://ci.example", "client_id": None}
    running = Service(root, PORTLLM_OIDC=json.dumps([issuer.setting(rule(groups="ml-team")), other])).start()
    yield running
    running.kill()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's configuration of the test's own; polls do not wait."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(device_login.Waiting, "pause", lambda *_: None)
    return tmp_path / "config" / "portllm" / "credentials.json"


@pytest.fixture
def here(trusting: Service, issuer: Issuer) -> Callable[..., Result]:
    """Runs `portllm` at that service, without a token in the environment."""
    issuer.answers.clear()
    issuer.device_answers.clear()
    return lambda *arguments, **variables: invoke(*arguments, PORTLLM_URL=trusting.url, **variables)


def refused(ended: Result, code: str, exit_code: int = 1) -> str:
    assert ended.exit_code == exit_code, ended.output
    assert ended.stderr.splitlines()[-1].endswith(f"[{code}]"), ended.stderr
    return str(ended.stderr)


def test_login_keeps_a_token_and_logout_revokes_it(
    here: Callable[..., Result], issuer: Issuer, trusting: Service, home: Path
) -> None:
    """Address and code are shown; the token is kept where only the user may read it, used, revoked and forgotten."""
    assert refused(here("ls", "patches"), "client.token", 2).count("portllm login") == 1
    issuer.device_answers += [{"error": "authorization_pending"}, {"error": "slow_down"}]
    ended = here("login")
    assert ended.exit_code == 0, ended.output
    assert f"Open {issuer.url}/enter and enter the code WDJB-MJHT\n" in ended.stderr
    assert f"Logged in at {trusting.url} as acme (publisher) until " in ended.stdout
    assert "plt_" not in ended.output
    assert "eyJ" not in ended.output
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    kept = json.loads(home.read_text())[trusting.url]["token"]
    assert issuer.forms[0] == {"client_id": CLIENT, "scope": "openid"}
    assert here("ls", "patches", "--json").exit_code == 0
    assert invoke("ls", "patches", "--json", PORTLLM_URL=f"{trusting.url}/").exit_code == 0
    refused(here("ls", "patches", PORTLLM_TOKEN="plt_other"), "token.missing")
    listed = json.loads(invoke("token", "ls", "--json", **trusting.variables()).stdout)[0]
    assert (listed["issuer"], listed["subject"], listed["owner"]) == (issuer.url, "ada", "acme")
    assert here("logout").stdout == f"Logged out of {trusting.url}.\n"
    refused(here("ls", "patches"), "client.token", 2)
    refused(here("ls", "patches", PORTLLM_TOKEN=kept), "token.missing")
    refused(here("logout"), "client.login")
    assert list(home.parent.iterdir()) == [home]


def test_login_for_programs(here: Callable[..., Result], trusting: Service) -> None:
    """--json tells everything of the token but the token; a lifetime may be wished; the environment has precedence."""
    ended = here("login", "--json", "--lifetime", "10m", PORTLLM_TOKEN="plt_x")
    told = json.loads(ended.stdout)
    assert told["owner"] == "acme"
    assert "token" not in told
    ended = here("login", PORTLLM_TOKEN="plt_x")
    assert "PORTLLM_TOKEN is set" in ended.stderr
    refused(here("login", "--lifetime", "3d"), "oidc.lifetime")
    refused(here("login", "--lifetime", "soon"), "client.span", 2)
    assert json.loads(here("logout", "--json").stdout) == {"url": trusting.url}


def test_expired_login_names_the_remedy(here: Callable[..., Result], trusting: Service, home: Path) -> None:
    """One sentence says what to do; one that was revoked elsewhere can still be forgotten; a broken file holds none."""
    credentials.keep(trusting.url, Login("plt_x", "2020-01-01T00:00:00+00:00"))
    assert "portllm login" in refused(here("ls", "patches"), "client.login_over")
    credentials.keep("https://other.example/", Login("plt_y", FOREVER))
    credentials.keep(trusting.url, Login("plt_x", FOREVER))
    refused(here("ls", "patches"), "token.missing")
    assert here("logout").exit_code == 0
    assert credentials.find("https://other.example") == Login("plt_y", FOREVER)
    assert credentials.find(trusting.url) is None
    for broken in ("", "[]", "{", '{"u": 1}', '{"u": {"token": "x"}}', '{"u": {"token": "x", "expires_at": "soon"}}'):
        home.write_text(broken)
        refused(here("ls", "patches"), "client.token", 2)


@pytest.mark.parametrize(
    ("answers", "code", "hint"),
    [
        ([{"error": "access_denied"}], "login.denied", "refused"),
        ([{"error": "authorization_pending"}, {"error": "expired_token"}], "login.expired", "in time"),
        ([{"error": "invalid_grant\x1b[2J"}], "login.issuer", "invalid_grant\\x1b[2J"),
        ([{"unknown": 1}], "login.issuer", "no issuer's"),
    ],
)
def test_failed_login_keeps_nothing(
    here: Callable[..., Result], issuer: Issuer, answers: list[Any], code: str, hint: str
) -> None:
    issuer.device_answers += answers
    assert hint in refused(here("login"), code)


@pytest.mark.parametrize(
    ("path", "answer", "hint"),
    [
        (ABOUT, {"issuer": "https://other.example"}, "another issuer's"),
        (ABOUT, {"issuer": "{url}"}, "device authorization endpoint"),
        (ABOUT, {"issuer": "{url}", "device_authorization_endpoint": "http://issuer.example/"}, "https"),
        (ABOUT, "text", "no issuer's"),
        ("/device", {"device_code": "x", "user_code": "y"}, "verification_uri"),
        ("/device", {"device_code": "x", "user_code": 5, "verification_uri": "https://x"}, "user_code"),
        ("/token", {"access_token": "x"}, "id_token"),
    ],
)  # fmt: skip
def test_login_at_an_issuer_without_device_grant_is_refused(
    here: Callable[..., Result], issuer: Issuer, path: str, answer: Any, hint: str
) -> None:
    """Nothing is kept, and nothing that an issuer says moves the cursor."""
    issuer.answers[path] = (200, json.loads(json.dumps(answer).replace("{url}", issuer.url)), {})
    assert hint in refused(here("login"), "login.issuer")


def test_login_at_an_issuer_that_is_not_trusted_is_refused(here: Callable[..., Result], issuer: Issuer, service: Service) -> None:
    """Only those that offer a login; a registry without any says so."""
    assert here("login", "--issuer", issuer.url).exit_code == 0
    assert issuer.url in refused(here("login", "--issuer", "https://ci.example"), "login.none")
    assert "ask an admin" in refused(invoke("login", PORTLLM_URL=service.url), "login.none")


class Clock(device_login.Waiting):
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def now(self) -> float:
        return sum(self.pauses)

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def test_login_polls_at_the_interval_of_the_issuer(issuer: Issuer) -> None:
    """RFC 8628, 3.5: its interval, five seconds more for every slow_down, and not longer than it waits itself."""
    shown: list[Any] = []
    issuer.answers.clear()
    issuer.device_start = {"interval": 3, "expires_in": 600, "verification_uri_complete": f"{issuer.url}/enter?c=1\x07"}
    issuer.device_answers[:] = 2 * [{"error": "authorization_pending"}, {"error": "slow_down"}]
    clock = Clock()
    token = device_login.identity_token(issuer.url, CLIENT, ["openid"], lambda *what: shown.append(what), clock)
    assert token.count(".") == 2
    assert clock.pauses == [3, 3, 8, 8, 13]
    assert shown == [(f"{issuer.url}/enter", "WDJB-MJHT", f"{issuer.url}/enter?c=1\\x07")]
    issuer.device_start = {"interval": "often", "expires_in": 12}
    issuer.device_answers[:] = [{"error": "authorization_pending"}] * 9
    with pytest.raises(RefusedError) as raised:
        device_login.identity_token(issuer.url, CLIENT, ["openid"], lambda *_: None, clock := Clock())
    assert raised.value.code == "login.expired"
    assert clock.pauses == [5, 5, 5]
    issuer.device_start = {"interval": 0, "expires_in": 60}


def test_login_at_an_unreachable_issuer_is_refused() -> None:
    with issuing() as gone:
        url = gone.url
    with pytest.raises(RefusedError, match="cannot be asked"):
        device_login.identity_token(url, CLIENT, ["openid"], lambda *_: None)
    for url in ("http://issuer.example", "ftp://x", "https://", "https://[x"):
        with pytest.raises(RefusedError, match="no https address"):
            device_login.identity_token(url, CLIENT, ["openid"], lambda *_: None)


def test_exchange_command_prints_the_token(
    here: Callable[..., Result], issuer: Issuer, trusting: Service, tmp_path: Path, home: Path
) -> None:
    """From a file, the environment or standard input; the token is printed and kept nowhere."""
    token = issuer.token(groups="ml-team")
    file = tmp_path / "id-token"
    file.write_text(f"{token}\n")
    ended = here("token", "exchange", "--token-file", file)
    assert ended.exit_code == 0, ended.output
    made = ended.stdout.strip()
    assert ended.stdout == f"{made}\n"
    assert here("ls", "patches", PORTLLM_TOKEN=made).exit_code == 0
    told = json.loads(here("token", "exchange", "--json", "--lifetime", "5m", PORTLLM_ID_TOKEN=token).stdout)
    assert told["token"].startswith("plt_")
    assert told["subject"] == "ada"
    piped = CliRunner().invoke(
        cli, ["token", "exchange"], input=token, env={"PORTLLM_URL": trusting.url, "PORTLLM_ID_TOKEN": None}
    )
    assert piped.stdout.startswith("plt_")
    assert not home.exists()
    refused(here("token", "exchange"), "client.token", 2)
    refused(here("token", "exchange", "--token-file", tmp_path / "none"), "client.file")
    refused(here("token", "exchange", PORTLLM_ID_TOKEN="nonsense"), "oidc.token")
    refused(here("token", "exchange", PORTLLM_ID_TOKEN="wörld"), "oidc.token")
    assert "'ada'" in refused(here("token", "exchange", PORTLLM_ID_TOKEN=issuer.token()), "oidc.no_rule")
