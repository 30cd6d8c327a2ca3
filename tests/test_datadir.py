"""The data directory is for its user alone: narrowed where it was wider, refused where it is somebody else's."""

import os
import stat
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import datadir
from app.domain.errors import DomainError
from app.main import create_app
from app.settings import Settings
from tests.support.service_process import invoke

SECRETS = ("secret-key", "admin-token", "portllm.db")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_first_start_creates_a_private_directory(tmp_path: Path) -> None:
    """Whatever the umask, also for files that SQLite makes."""
    before = os.umask(0o000)
    try:
        with TestClient(create_app(Settings(jobs=False, data=tmp_path / "data"))):
            assert mode(tmp_path / "data") == 0o700
            found = {path.name: mode(path) for path in (tmp_path / "data").iterdir() if path.is_file()}
    finally:
        os.umask(before)
    assert set(SECRETS) < found.keys()
    assert set(found.values()) == {0o600}, found


def test_directory_that_others_may_enter_is_narrowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Made by hand, or restored from a backup, with files that others may read; the log names each."""
    data, settings = tmp_path / "data", Settings(jobs=False, data=tmp_path / "data")
    with TestClient(create_app(settings)):
        pass
    data.chmod(0o755)
    for name in SECRETS:
        (data / name).chmod(0o644)
    with TestClient(create_app(settings)) as client:
        assert client.get("/healthz").status_code == 200
    assert mode(data) == 0o700
    assert {mode(data / name) for name in SECRETS} == {0o600}
    assert f"{data} was open to others (mode 755)" in caplog.text
    caplog.clear()
    with TestClient(create_app(settings)):
        assert "open to others" not in caplog.text


def test_upgrade_narrows_the_directory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    data.chmod(0o755)
    assert invoke("db", "upgrade", "--data", data).exit_code == 0
    assert (mode(data), mode(data / "portllm.db")) == (0o700, 0o600)


def test_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner could read every secret in it, and put other ones there."""
    data = tmp_path
    if os.geteuid() == 0:
        os.chown(data, 65_534, 65_534)
    else:
        data = Path("/")
    with pytest.raises(DomainError) as refused:
        datadir.prepare(data)
    assert refused.value.code == "data.permissions"
    assert str(data) in refused.value.detail
    ended = invoke("serve", "--data", data)
    assert (ended.exit_code, "[data.permissions]" in ended.stderr, ended.stderr.count("\n")) == (1, True, 1)
