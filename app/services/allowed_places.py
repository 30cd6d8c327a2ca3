"""The directories and S3 places that an installation may use: services say them, workers learn them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.db import installation
from app.domain.errors import DomainError
from app.domain.places import Place

FACT = "allowed-places"
ROOTS, S3 = "PORTLLM_ALLOW_ROOTS", "PORTLLM_ALLOW_S3"

log = logging.getLogger("portllm.places")


@dataclass(frozen=True)
class AllowedPlaces:
    """Directories that releases may be registered from, and s3:// places that may be read and written."""

    roots: tuple[Path, ...]
    s3: tuple[str, ...]


def announce(session: Session, allowed: AllowedPlaces) -> None:
    """Writes what a service allows, for workers to read; the service that started last has the say."""
    fact = {"roots": sorted({str(root.resolve()) for root in allowed.roots}), "s3": sorted(set(allowed.s3))}
    before = installation.read(session, FACT)
    if before == fact:
        return
    if before is not None:
        log.warning("the allowed places of this installation change from %s to %s", before, fact)
    installation.write(session, FACT, fact)


def adopt(session: Session, own: AllowedPlaces) -> AllowedPlaces:
    """What a worker allows: its own places, or those of the installation where it has none.

    Raises:
        DomainError: worker.roots, when it has some and they leave out one of the installation's.
    """
    fact: dict[str, Any] = installation.read(session, FACT) or {"roots": [], "s3": []}
    roots, s3 = tuple(map(Path, fact["roots"])), tuple(map(str, fact["s3"]))
    _require_all(ROOTS, [root.resolve() for root in own.roots], roots, Path.is_relative_to)
    _require_all(S3, own.s3, s3, lambda place, above: Place.parse(place).is_below(Place.parse(above)))
    return AllowedPlaces(own.roots or roots, own.s3 or s3)


def warn_of_absent(allowed: AllowedPlaces) -> None:
    """Logs which directories are not on this machine. Releases that are copied or lie in S3 can be read without them."""
    for root in allowed.roots:
        if not root.is_dir():
            log.warning("the allowed directory %s is not there on this machine: jobs that read releases below it fail here", root)


def _require_all(setting: str, own: Sequence[Any], wanted: Sequence[Any], is_below: Callable[[Any, Any], bool]) -> None:
    """Raises `DomainError` (worker.roots) where one has own places and a wanted one lies below none of them."""
    missing = [place for place in wanted if own and not any(is_below(place, above) for above in own)]
    if missing:
        raise DomainError(
            "worker.roots", setting=setting, own=", ".join(map(str, own)), service=", ".join(map(str, wanted)),
            missing=", ".join(map(str, missing)),
        )  # fmt: skip
