"""A setting that cannot be: one sentence with the variable and what it must be, exit code 2, and never the value."""

import json
from pathlib import Path

import pytest

from tests.live.service import invoke

PASSWORD = "SeKrEt"
NUMBERS = [
    "WORKER_TTL_SECONDS=-3", "WORKER_TTL_SECONDS=nan", "WORKER_BEAT_SECONDS=0", "WORKER_BEAT_SECONDS=inf", "MERGED_READS=-1",
    "MAX_PATCH_BYTES=-5", "MAX_PATCH_FILES=0", "MAX_BODY_BYTES=0", "MAX_PAGE=0", "JOB_CONCURRENCY=0", "JOB_CONCURRENCY=many",
    "MERGED_READS_PER_OWNER=0", "QUOTA_BYTES=-1", "QUOTA_PATCHES=lots", "HEAD_SECONDS=0", "IDLE_SECONDS=-1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "must"),
    [
        (f"DATABASE_URL=mysql://bob:{PASSWORD}@db/x", "must begin with postgresql+psycopg:// or sqlite:///"),
        (f"DATABASE_URL=postgresql+psycopg://bob:{PASSWORD}@db:port/x", "USER:PASSWORD@HOST"),
        (f"ALLOW_S3={PASSWORD}", "'[\"s3://BUCKET/models\"]'"),
        (f'ALLOW_S3=["{PASSWORD}"]', "s3://BUCKET/PREFIX"),
        (f"ALLOW_ROOTS={PASSWORD}", "list in JSON"),
        (f"BLOBS=https://{PASSWORD}@host", "s3://BUCKET/PREFIX"),
        (f"LOG_FORMAT={PASSWORD}", "'text' or 'json'"),
        (f"LOG_LEVEL={PASSWORD}", "'debug', 'info' or 'warning'"),
        (f"DIRECT_TRANSFERS={PASSWORD}", "must be a valid boolean"),
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
