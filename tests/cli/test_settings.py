"""A setting that cannot be: one sentence with the variable and what it must be, exit code 2, and never the value."""

import json
from pathlib import Path
from typing import Any

import pytest

from app import datadir
from app.blobs.s3 import client
from app.db import schema
from app.domain.errors import DomainError
from app.runtime import Runtime
from app.settings import Settings
from tests.support.service_process import invoke

PASSWORD = "SeKrEt"
NUMBERS = [
    "WORKER_TTL_SECONDS=-3", "WORKER_TTL_SECONDS=nan", "WORKER_BEAT_SECONDS=0", "WORKER_BEAT_SECONDS=inf", "MERGED_READS=-1",
    "MAX_PATCH_BYTES=-5", "MAX_PATCH_FILES=0", "MAX_BODY_BYTES=0", "MAX_PAGE=0", "JOB_CONCURRENCY=0", "JOB_CONCURRENCY=many",
    "MERGED_READS_PER_OWNER=0", "QUOTA_BYTES=-1", "QUOTA_PATCHES=lots", "HEAD_SECONDS=0", "IDLE_SECONDS=-1",
    "S3_READ_TIMEOUT=0", "S3_READ_TIMEOUT=soon", "JOB_POLL_SECONDS=0", "JOB_POLL_SECONDS=1e10",
]  # fmt: skip


RULE = {"claims": {"groups": "ml-team"}, "owner": "acme", "role": "publisher"}
ISSUER = {"issuer": "https://issuer.example", "audience": "portllm", "rules": [RULE]}


def oidc(rule: dict[str, Any] | None = None, **issuer: Any) -> str:
    """A setting of one issuer, with something changed in it or in its rule; what is None is left out."""
    changed = {**ISSUER, "rules": [{**RULE, **(rule or {})}], **issuer}
    return f"OIDC={json.dumps([{name: value for name, value in changed.items() if value is not None}])}"


@pytest.mark.parametrize(
    ("setting", "must"),
    [
        (f"OIDC={PASSWORD}", "list in JSON"),
        ('OIDC={"issuer": "x"}', "must be a valid list"),
        (oidc(issuer=f"http://{PASSWORD}.example"), "begins with https://"),
        (oidc(issuer="http://issuer.example", http_hosts=["other.example"]), "begins with https://"),
        (oidc(issuer=f"https://user:{PASSWORD}@issuer.example"), "without user"),
        (oidc(issuer="https://issuer.example?x=1"), "without user, query and fragment"),
        (oidc(issuer="https://issuer.example#"), "without user, query and fragment"),
        *(
            (oidc(issuer=bad), "such as https://issuer.example")
            for bad in ("", f"https://a/{'x' * 500}", "https://", "https://[x", "https://a b", "https://a:0")
        ),
        (oidc(issuer="issuer.example"), "such as https://issuer.example"),
        (oidc(issuer=None), "must have this field (at [0].issuer)"),
        (oidc(audience=None), "must have this field (at [0].audience)"),
        (oidc(audience=""), "must have an audience"),
        (oidc(client_id=""), "client_id that is not empty"),
        (oidc(audiences=PASSWORD), "must not have this field (at [0].audiences)"),
        (oidc(rules=[]), "nobody is let in"),
        (oidc({"claims": {}}), "would let everybody in (at [0].rules[0])"),
        (oidc({"claims": {"groups": ""}}), "a name and a value for every claim"),
        (oidc({"claims": {"groups": None}}), "must be a valid"),
        (oidc({"claims": {"groups": ["ml-team"]}}), "must be a valid"),
        (oidc({"role": PASSWORD}), "reader, publisher, operator, admin"),
        (oidc({"owner": PASSWORD}), "must have an owner that can be one"),
        (oidc({"owner": "api"}), "must have an owner that can be one"),
        (oidc({"role": None}), "must be a valid string (at [0].rules[0].role)"),
        (oidc({"scope": PASSWORD}), "must not have this field (at [0].rules[0].scope)"),
        *((oidc(algorithms=bad), "algorithms out of RS256") for bad in ([], ["HS256"], ["none"], ["RS256", "HS512"], [PASSWORD])),
        (oidc(scopes=["groups"]), "openid among its scopes"),
        (oidc(max_lifetime=0), "at least 1 second"),
        (f"OIDC={json.dumps([ISSUER, ISSUER])}", "every issuer once"),
        ("OIDC_MAX_LIFETIME_SECONDS=59", "must be greater than or equal to 60"),
        (f"DATABASE_URL=mysql://bob:{PASSWORD}@db/x", "must begin with postgresql+psycopg:// or sqlite:///"),
        (f"DATABASE_URL=postgresql+psycopg://bob:{PASSWORD}@db:port/x", "USER:PASSWORD@HOST"),
        (f"ALLOW_S3={PASSWORD}", "'[\"s3://BUCKET/models\"]'"),
        (f'ALLOW_S3=["{PASSWORD}"]', "s3://BUCKET/PREFIX"),
        (f"ALLOW_ROOTS={PASSWORD}", "list in JSON"),
        (f"BLOBS=https://{PASSWORD}@host", "s3://BUCKET/PREFIX"),
        *(
            (f"SECRET_KEY={short}", "32 bytes or more. Make one with: openssl rand -hex 32")
            for short in ("", "a", PASSWORD, PASSWORD * 5, "ä" * 15)
        ),
        *(
            (f"SECRET_KEYS_ACCEPTED={json.dumps(keys)}", "32 bytes or more. Make one with: openssl rand -hex 32")
            for keys in ([""], [PASSWORD], ["k" * 32, PASSWORD * 5])
        ),
        (f"SECRET_KEYS_ACCEPTED={PASSWORD}", "list in JSON"),
        (f"LOG_FORMAT={PASSWORD}", "'text' or 'json'"),
        (f"LOG_LEVEL={PASSWORD}", "'debug', 'info' or 'warning'"),
        (f"DIRECT_TRANSFERS={PASSWORD}", "must be a valid boolean"),
        (f"S3_KEEPS_NO_VERSIONS={PASSWORD}", "must be a valid boolean"),
        ("RATE_LIMIT=100", "N/second, N/minute or N/hour"),
        ("RATE_LIMIT_WRITES=0/minute", "N/second, N/minute or N/hour"),
        (f"RATE_LIMIT_FAILURES={PASSWORD}/minute", "empty for no limit"),
        ('TRUSTED_PROXIES=["*"]', "10.1.0.0/16"),
        (f'TRUSTED_PROXIES=["{PASSWORD}"]', "list addresses and networks"),
        ("TRUSTED_PROXIES=10.0.0.1", "list in JSON"),
        *((number, "must be ") for number in NUMBERS),
    ],
)
def test_a_bad_setting_is_named(setting: str, must: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By every verb that reads settings, before it leaves anything."""
    monkeypatch.chdir(tmp_path)
    name, _, value = setting.partition("=")
    variables = {f"PORTLLM_{name}": value}
    for command in (["serve"], ["worker"], ["db", "check"], ["fsck"], ["db", "upgrade", "--json"]):
        ended = invoke(*command, **variables)
        assert ended.exit_code == 2, (command, ended.output)
        assert ended.stderr.startswith(f"portllm: PORTLLM_{name} must ")
        assert ended.stderr.endswith(" [settings.invalid]\n")
        assert ended.stderr.count("\n") == 1
        assert must in ended.stderr
        assert PASSWORD not in ended.output
        if "--json" in command:
            assert json.loads(ended.stdout)["error"]["code"] == "settings.invalid"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {"PORTLLM_WORKER_BEAT_SECONDS": "15", "PORTLLM_WORKER_TTL_SECONDS": "15"},
        {"PORTLLM_MERGED_READS": "0"},
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_each_other_are_named(settings: dict[str, str], tmp_path: Path) -> None:
    """A worker that is given up before it beats; a service that nobody can read from."""
    ended = invoke("serve", "--data", tmp_path / "data", **settings)
    assert ended.exit_code == 2
    assert ended.stderr.endswith("[settings.invalid]\n")
    assert all(name in ended.stderr for name in settings)


def test_keys_of_32_bytes_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes are counted, not letters."""
    monkeypatch.setenv("PORTLLM_SECRET_KEY", "ä" * 16)
    monkeypatch.setenv("PORTLLM_SECRET_KEYS_ACCEPTED", json.dumps(["k" * 32]))
    settings = Settings(data=tmp_path)
    assert settings.secret_key is not None
    assert len(settings.secret_key.get_secret_value().encode()) == 32
    assert [key.get_secret_value() for key in settings.secret_keys_accepted] == ["k" * 32]


def test_a_short_key_in_the_data_directory_is_refused(tmp_path: Path) -> None:
    """A file that was cut, or written by hand; the sentence names it and does not show it."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "secret-key").write_text(PASSWORD)
    ended = invoke("serve", "--data", data)
    assert ended.exit_code == 1
    assert "[data.secret_key]" in ended.stderr
    assert str(data / "secret-key") in ended.stderr
    assert PASSWORD not in ended.output
    with pytest.raises(DomainError) as refused:
        datadir.secret_key(data)
    assert refused.value.code == "data.secret_key"


def test_an_issuer_that_is_all_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is documented, with everything that may be said of it."""
    more = {
        "client_id": "portllm-cli", "scopes": ["openid", "groups"], "algorithms": ["ES256"], "max_lifetime": 900,
        "private_hosts": ["keycloak.corp"], "http_hosts": ["keycloak.corp"], "issuer": "http://keycloak.corp:8080/realms/x",
        "rules": [{"claims": {"email_verified": True, "level": 3}, "owner": "acme", "role": "admin"}, RULE],
    }  # fmt: skip
    monkeypatch.setenv("PORTLLM_OIDC", json.dumps([ISSUER, ISSUER | more]))
    plain, full = Settings(data=tmp_path).oidc
    assert (plain.audiences, plain.scopes, plain.max_lifetime) == (("portllm",), ("openid",), None)
    assert not any(name.startswith("HS") or name == "none" for name in plain.algorithms)
    assert full.audiences == ("portllm", "portllm-cli")
    assert full.rules[0].claims == {"email_verified": True, "level": 3}
    assert full.rules[0].claims["email_verified"] is True


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("PORTLLM_BLOB", "the nearest is PORTLLM_BLOBS"),
        ("PORTLLM_DATABSE_URL", "the nearest is PORTLLM_DATABASE_URL"),
        ("portllm_secret_keys", "the nearest is PORTLLM_SECRET_KEY"),
        ("PORTLLM_TOKENS", "the nearest is PORTLLM_TOKEN"),
        ("PORTLLM_QQQ", "portllm config lists them"),
        ("PORTLLM_XYZ_QQQ_PORT", "portllm config lists them"),
    ],
)
def test_variable_that_is_no_setting_is_refused_with_the_nearest_name(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every verb that reads settings, before it leaves anything: a setting with a typing error would have no effect."""
    monkeypatch.chdir(tmp_path)
    for command in (["serve"], ["worker"], ["db", "check"], ["fsck"], ["gc"], ["config"], ["db", "upgrade", "--json"]):
        ended = invoke(*command, **{name: PASSWORD})
        assert ended.exit_code == 2, (command, ended.output)
        assert ended.stderr == f"portllm: {name} is not a setting ({said}). [settings.unknown]\n"
        assert PASSWORD not in ended.output
    assert not list(tmp_path.iterdir())


def test_variables_of_clients_tests_and_kubernetes_are_accepted() -> None:
    """They may be set where a service starts; Kubernetes sets the last ones for a Service called portllm."""
    known = {
        "PORTLLM_URL": "http://x", "PORTLLM_TOKEN": "x", "PORTLLM_ID_TOKEN": "x", "PORTLLM_VLLM_BASE": "x",
        "PORTLLM_IMAGE_TAG": "x",
        "PORTLLM_SOAK_ROUNDS": "3", "PORTLLM_TEST_DATABASE_URL": "x", "PORTLLM_SERVICE_HOST": "10.0.0.1",
        "PORTLLM_SERVICE_PORT_HTTP": "8000", "PORTLLM_PORT": "tcp://10.0.0.1:8000", "PORTLLM_PORT_8000_TCP_PORT": "8000",
        "PORTLLM_API_PORT_8000_TCP_ADDR": "10.0.0.1",
    }  # fmt: skip
    assert invoke("config", **known).exit_code == 0


def test_config_shows_values_with_their_sources_and_masks_secrets(tmp_path: Path) -> None:
    """A default, a variable, an option and a file; no password, key or token in any form."""
    (tmp_path / "secret-key").write_text(PASSWORD * 10)
    variables = {
        "PORTLLM_DATABASE_URL": f"postgresql+psycopg://bob:{PASSWORD}@db/x?password={PASSWORD}",
        "PORTLLM_METRICS_TOKEN": PASSWORD,
        "PORTLLM_SECRET_KEYS_ACCEPTED": json.dumps([PASSWORD * 6]), "PORTLLM_MERGED_READS": "3",
    }  # fmt: skip
    for form in ([], ["--json"]):
        ended = invoke("config", "--data", tmp_path, *form, **variables)
        assert ended.exit_code == 0, ended.output
        assert PASSWORD not in ended.output
    shown = {row["variable"]: (row["value"], row["source"]) for row in json.loads(ended.stdout)["items"]}
    assert shown["PORTLLM_MERGED_READS"] == (3, "environment variable")
    assert shown["PORTLLM_MAX_PAGE"] == (500, "default")
    assert shown["PORTLLM_DATA"] == (str(tmp_path), "option --data")
    assert shown["PORTLLM_SECRET_KEY"] == ("***", f"file {tmp_path / 'secret-key'}")
    assert shown["PORTLLM_SECRET_KEYS_ACCEPTED"] == (["***"], "environment variable")
    assert shown["PORTLLM_METRICS_TOKEN"] == ("***", "environment variable")
    assert shown["PORTLLM_DATABASE_URL"][0] == "postgresql+psycopg://bob:***@db/x?password=***"
    assert len(shown) == len(Settings.model_fields)


def test_data_directory_is_read_from_its_variable(tmp_path: Path) -> None:
    """Unless the option names another."""
    ended = invoke("config", "--json", PORTLLM_DATA=str(tmp_path))
    (row,) = (row for row in json.loads(ended.stdout)["items"] if row["variable"] == "PORTLLM_DATA")
    assert (row["value"], row["source"]) == (str(tmp_path), "environment variable")


def test_settings_of_s3_reach_its_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As values: the environment says nothing of them here."""
    monkeypatch.delenv("PORTLLM_S3_READ_TIMEOUT", raising=False)
    before = client.options()
    runtime = Runtime(Settings(data=tmp_path, s3_read_timeout=7, s3_keeps_no_versions=True, jobs=False))
    schema.upgrade(runtime.settings.database_url)
    try:
        runtime.look()
        assert client.shared_client().meta.config.read_timeout == 7
        assert client.options().keeps_no_versions
    finally:
        runtime.stop()
        client.configure(before)
