"""The data directory, accessible to its user only, and its small files: lock, secret key, admin token."""

import fcntl
import logging
import os
import secrets
from pathlib import Path

from app.domain.errors import DomainError
from app.domain.signing import MIN_KEY_BYTES

ADMIN_TOKEN_FILE = "admin-token"  # noqa: S105  a file name
SECRET_KEY_FILE = "secret-key"  # noqa: S105  a file name
SECRET_KEY_BYTES = 32
DATABASE_FILE = "portllm.db"
# SQLite creates its WAL and shared-memory files with the mode of the database file.
PRIVATE_FILES = (SECRET_KEY_FILE, ADMIN_TOKEN_FILE, DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm")
OTHERS = 0o077

log = logging.getLogger("portllm.data")


def prepare(data: Path, database_url: str = "") -> None:
    """Creates the data directory if it is missing; restricts an existing one and its files to its owner.

    Args:
        data: the directory.
        database_url: if this names a SQLite database in the directory, its file is created with access for the owner only;
            SQLite itself would create it with the permissions of the umask.

    Raises:
        DomainError: data.permissions, if the directory belongs to another user or its permissions cannot be changed.
        OSError: the directory cannot be created.
    """
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    _narrow(data)
    for name in PRIVATE_FILES:
        if (data / name).exists():
            _narrow(data / name)
    if database_url == f"sqlite:///{data.resolve() / DATABASE_FILE}":
        os.close(os.open(data / DATABASE_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _narrow(path: Path) -> None:
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise DomainError("data.permissions", path=str(path), reason="it belongs to another user")
    if not found.st_mode & OTHERS:
        return
    try:
        path.chmod(found.st_mode & 0o7700)
    except OSError as error:
        reason = f"others may read it, and that cannot be changed: {error.strerror}"
        raise DomainError("data.permissions", path=str(path), reason=reason) from None
    log.warning("%s was open to others (mode %03o): now it is its owner's alone", path, found.st_mode & 0o777)


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
    """Returns the secret key of an installation without a configured one: generated once and stored here.

    Raises:
        DomainError: data.secret_key, if the file holds fewer than 32 bytes.
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
