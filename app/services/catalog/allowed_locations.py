"""The directories and S3 places that an installation may use: services announce them, workers adopt them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.db import installation
from app.domain.errors import DomainError
from app.domain.s3_uri import S3Uri

FACT = "allowed-places"
ROOTS, S3 = "PORTLLM_ALLOW_ROOTS", "PORTLLM_ALLOW_S3"

log = logging.getLogger("portllm.allowed_locations")


@dataclass(frozen=True)
class AllowedLocations:
    """Directories that releases may be registered from, and s3:// places that may be read and written."""

    roots: tuple[Path, ...]
    s3: tuple[str, ...]


def announce(session: Session, allowed: AllowedLocations) -> None:
    """Records the places that a service allows, for workers to read; the service that started last wins."""
    fact = {"roots": sorted({str(root.resolve()) for root in allowed.roots}), "s3": sorted(set(allowed.s3))}
    before = installation.read(session, FACT)
    if before == fact:
        return
    if before is not None:
        log.warning("the allowed places of this installation change from %s to %s", before, fact)
    installation.write(session, FACT, fact)


def adopt(session: Session, own: AllowedLocations) -> AllowedLocations:
    """Returns the places that a worker allows: its own, or those of the installation if it has none of its own.

    Raises:
        DomainError: worker.roots, when the worker's own places do not cover all of the installation's.
    """
    fact: dict[str, Any] = installation.read(session, FACT) or {"roots": [], "s3": []}
    roots, s3 = tuple(map(Path, fact["roots"])), tuple(map(str, fact["s3"]))
    _require_all(ROOTS, [root.resolve() for root in own.roots], roots, Path.is_relative_to)
    _require_all(S3, own.s3, s3, lambda place, above: S3Uri.parse(place).is_below(S3Uri.parse(above)))
    return AllowedLocations(own.roots or roots, own.s3 or s3)


def warn_of_absent(allowed: AllowedLocations) -> None:
    """Logs which allowed directories are missing on this machine. Releases that were copied or lie in S3 do not need them."""
    for root in allowed.roots:
        if not root.is_dir():
            log.warning("the allowed directory %s is not there on this machine: jobs that read releases below it fail here", root)


def _require_all(setting: str, own: Sequence[Any], wanted: Sequence[Any], is_below: Callable[[Any, Any], bool]) -> None:
    """Raises `DomainError` (worker.roots) if there are own places and a wanted place lies below none of them."""
    missing = [place for place in wanted if own and not any(is_below(place, above) for above in own)]
    if missing:
        raise DomainError(
            "worker.roots", setting=setting, own=", ".join(map(str, own)), service=", ".join(map(str, wanted)),
            missing=", ".join(map(str, missing)),
        )  # fmt: skip
