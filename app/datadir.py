"""What lies in the data directory beside database and bytes: its lock, the secret key, the first admin token."""

import fcntl
import os
import secrets
from pathlib import Path

from app.domain.errors import DomainError
from app.domain.signing import MIN_KEY_BYTES

ADMIN_TOKEN_FILE = "admin-token"  # noqa: S105  a file name
SECRET_KEY_FILE = "secret-key"  # noqa: S105  a file name
SECRET_KEY_BYTES = 32


def lock(data: Path) -> int:
    """One service for one data directory: the job engine's identity is fixed, two would run each other's jobs.

    Returns:
        The descriptor that holds the lock as long as it is open.

    Raises:
        DomainError: data.locked.
    """
    descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DomainError("data.locked", path=str(data)) from None
    return descriptor


def secret_key(data: Path) -> bytes:
    """Returns the key of an installation that was given none: made once and kept here.

    Raises:
        DomainError: data.secret_key, when the file holds fewer than 32 bytes.
    """
    path = data / SECRET_KEY_FILE
    if not path.exists():
        partial = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(SECRET_KEY_BYTES))
        partial.rename(path)  # whole or not there: half a key would be another key
    key = path.read_text().encode()
    if len(key) < MIN_KEY_BYTES:
        raise DomainError("data.secret_key", path=str(path), size=len(key), limit=MIN_KEY_BYTES)
    return key


def keep_admin_token(data: Path, token: str) -> None:
    """Writes the first admin token, for its owner's eyes."""
    path = data / ADMIN_TOKEN_FILE
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
