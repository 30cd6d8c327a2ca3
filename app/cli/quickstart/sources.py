"""Finds files of known kinds in the running Python installation.

Only the standard library and the site-packages of the running interpreter are looked at, as `sysconfig` names them.
Links are not followed, so nothing outside those directories is read (an editable install, say, is not).
"""

from __future__ import annotations

import os
import random
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

KINDS: tuple[str, ...] = ("python", "header", "stub", "licence", "docs", "config")
"""The labels: Python source, C and C++ headers, type stubs, licence texts, documentation, configuration."""

_KIND_OF_SUFFIX: Mapping[str, str] = {
    ".py": "python",
    ".h": "header",
    ".hpp": "header",
    ".cuh": "header",
    ".pyi": "stub",
    ".md": "docs",
    ".rst": "docs",
    ".json": "config",
    ".toml": "config",
    ".yaml": "config",
    ".yml": "config",
    ".cfg": "config",
    ".ini": "config",
    ".cmake": "config",
}
_LICENCE_STEMS = ("license", "licence", "copying", "notice")
# Debian ships Python without its tests, so leaving them out keeps the corpus alike between machines.
_SKIPPED_DIRECTORIES = frozenset({"__pycache__", "site-packages", "dist-packages", "test", "tests"})
_MAX_BYTES = 2_000_000


def installation_roots() -> dict[str, Path]:
    """The directories that may be read, by a short name that does not depend on the machine.

    Returns:
        `stdlib`, `site`, and `platform` where compiled packages live apart from pure ones.
    """
    paths = sysconfig.get_paths()
    roots: dict[str, Path] = {}
    for name, key in (("stdlib", "stdlib"), ("site", "purelib"), ("platform", "platlib")):
        path = Path(paths[key]).resolve()
        if path.is_dir() and path not in roots.values():
            roots[name] = path
    return roots


def kind_of(path: Path) -> str | None:
    """The kind of a file, from its path alone.

    Args:
        path: relative to its root.

    Returns:
        One of `KINDS`, or None for a file of no use here.
    """
    name = path.name.lower()
    suffix = path.suffix.lower()
    if suffix in (".py", ".pyi"):
        return _KIND_OF_SUFFIX[suffix]
    in_metadata = any(part.endswith(".dist-info") for part in path.parts[:-1])
    if name.startswith(_LICENCE_STEMS) and suffix in ("", ".txt", ".md", ".rst"):
        return "licence"
    if in_metadata:
        # The rest of a dist-info directory was written by the installer, except the package's own description.
        return "docs" if name == "metadata" else None
    return _KIND_OF_SUFFIX.get(suffix)


def find_files(roots: Mapping[str, Path], seed: int) -> dict[str, list[tuple[str, Path]]]:
    """List the files of every kind, in an order that mixes directories.

    Directories take turns, because some hold thousands of generated files (torch's operators) that would otherwise be
    most of what a small sample sees.

    Args:
        roots: short name -> directory.
        seed: decides the order.

    Returns:
        For every kind, `(name, path)` pairs, name being `root:relative/path`. The same for the same files and seed.
    """
    grouped: dict[str, dict[str, list[tuple[str, Path]]]] = {kind: {} for kind in KINDS}
    for root_name, root in sorted(roots.items()):
        for relative in _walk(root):
            kind = kind_of(relative)
            if kind is not None:
                name = f"{root_name}:{relative.as_posix()}"
                group = f"{root_name}:{relative.parent.as_posix()}"
                grouped[kind].setdefault(group, []).append((name, root / relative))
    return {kind: _take_turns(groups, random.Random(f"{seed}:{kind}")) for kind, groups in grouped.items()}


def read_text(path: Path) -> str | None:
    """The text of a file, or None where it is not UTF-8 text, is binary, is huge, or cannot be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return None if "\0" in text else text.replace("\r\n", "\n")


def _walk(root: Path) -> Iterator[Path]:
    """Every regular file below `root`, relative to it; links to files and directories are passed over."""
    for directory, subdirectories, files in os.walk(root, followlinks=False):
        subdirectories[:] = sorted(d for d in subdirectories if d not in _SKIPPED_DIRECTORIES)
        for file in sorted(files):
            path = Path(directory, file)
            if not path.is_symlink():
                yield path.relative_to(root)


def _take_turns(groups: Mapping[str, Sequence[tuple[str, Path]]], rng: random.Random) -> list[tuple[str, Path]]:
    """One file of every group, then a second one of every group that has one, and so on."""
    queues = [sorted(groups[key]) for key in sorted(groups)]
    for queue in queues:
        rng.shuffle(queue)
    rng.shuffle(queues)
    turns = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
