"""Where `portllm login` keeps tokens: one file of the user's, by registry, which nobody else may read."""

import datetime as dt
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

APPLICATION = "portllm"
FILE = "credentials.json"


@dataclass(frozen=True)
class Login:
    """A token of one registry; `expires_at` as the registry wrote it."""

    token: str
    expires_at: str

    @property
    def is_over(self) -> bool:
        return dt.datetime.fromisoformat(self.expires_at) <= dt.datetime.now(dt.UTC)


def path() -> Path:
    """The file, in the user's directory for configurations (XDG_CONFIG_HOME)."""
    return Path(typer.get_app_dir(APPLICATION)) / FILE


def find(url: str) -> Login | None:
    """The login at a registry."""
    return _read().get(_key(url))


def keep(url: str, login: Login) -> None:
    """Keeps a login in place of the one before.

    Raises:
        OSError: the directory cannot be written.
    """
    _write({**_read(), _key(url): login})


def forget(url: str) -> None:
    """Forgets the login at a registry, if there is one.

    Raises:
        OSError: the directory cannot be written.
    """
    logins = _read()
    if logins.pop(_key(url), None):
        _write(logins)


def _key(url: str) -> str:
    return url.rstrip("/")


def _read() -> dict[str, Login]:
    """All logins; none where the file is not there, or not ours any more."""
    try:
        kept = json.loads(path().read_bytes())
        logins = {str(url): Login(str(one["token"]), str(one["expires_at"])) for url, one in kept.items()}
        return {url: login for url, login in logins.items() if dt.datetime.fromisoformat(login.expires_at).tzinfo}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(logins: dict[str, Login]) -> None:
    """Whole or not at all, and never readable by others, not even for a moment."""
    target = path()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, partial = tempfile.mkstemp(dir=target.parent, prefix=FILE)  # made with mode 600
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump({url: asdict(login) for url, login in logins.items()}, file, indent=2)
        Path(partial).replace(target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
