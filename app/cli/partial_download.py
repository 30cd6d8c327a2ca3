"""Where a merged model arrives: a hidden directory beside its place, taken up again later, held by one call at a time."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from app.cli.client import RefusedError
from app.core.errors import OutputError

STATE_FILE = ".portllm-pull.json"


@contextmanager
def arrival_directory(out_dir: Path, listing: dict[str, Any]) -> Iterator[Path]:
    """The directory where the files of a listing arrive, with those of them that an earlier call fetched.

    Raises:
        RefusedError: pull.busy, while another call holds it; output.no_space, where an earlier call's files stay.
        OutputError: output.no_space; nothing was created.
    """
    partial, files = out_dir.parent / f".{out_dir.name}.partial", listing["files"]
    needed = sum(f["size"] for f in files)
    if not partial.exists():
        _require_space(out_dir, _existing(partial), needed)
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / STATE_FILE).open("a+") as state:
        _hold(state, partial, out_dir)
        if _fingerprint(state) != listing["fingerprint"]:
            _begin(state, partial, listing["fingerprint"])
        present = _present(partial, files)
        try:
            _require_space(out_dir, partial, needed - present)
        except OutputError as error:
            if not present:
                shutil.rmtree(partial)
                raise
            text = f"{error.detail} Free some space and run the same command again; what has arrived is kept in {partial}."
            raise RefusedError(error.code, text) from None
        yield partial


def require_unused(out_dir: Path) -> None:
    """Raises `OutputError` (output.exists) for a place that holds something; an empty directory does not."""
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise OutputError("output.exists", path=str(out_dir))


def finish(partial: Path, out_dir: Path) -> None:
    """Makes what has arrived visible. Held until it is renamed, so that no other call begins in what is complete."""
    partial.replace(out_dir)
    (out_dir / STATE_FILE).unlink()


def target_of(partial: Path, path: str) -> Path:
    """Where a file goes below a directory; the registry is trusted with bytes, not with our disk."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) in (".", STATE_FILE) or {"\\", "\0"} & {*path}:
        raise RefusedError("pull.path", f"The registry names a file {path!r}, which does not stay in the directory.")
    return partial / pure


def _hold(state: IO[str], partial: Path, out_dir: Path) -> None:
    busy = RefusedError(
        "pull.busy", f"Another 'portllm pull' is writing {out_dir}. Wait until it ends, or choose another directory."
    )
    try:
        fcntl.flock(state, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise busy from None
    except OSError:  # a file system without locks: it works there as for one who does not pull twice at once
        return
    found = None
    with suppress(OSError):
        found = (partial / STATE_FILE).stat()
    if found is None or not os.path.samestat(found, os.fstat(state.fileno())):  # the other one ended just now
        raise busy


def _fingerprint(state: IO[str]) -> Any:
    state.seek(0)
    try:
        return json.loads(state.read())["fingerprint"]
    except (ValueError, KeyError, TypeError):
        return None


def _begin(state: IO[str], partial: Path, fingerprint: str) -> None:
    """Throws away what is left of another model."""
    for entry in partial.iterdir():
        if entry.name != STATE_FILE:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    state.truncate(0)
    json.dump({"fingerprint": fingerprint}, state)
    state.flush()


def _present(partial: Path, files: Sequence[dict[str, Any]]) -> int:
    targets = ((target_of(partial, f["path"]), f["size"]) for f in files)
    return sum(min(t.stat().st_size, size) for t, size in targets if t.is_file())


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.is_dir())


def _require_space(out_dir: Path, place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError("output.no_space", path=str(out_dir), needed=needed, free=free)
