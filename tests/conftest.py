"""For all tests."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.s3 import S3Server, running_s3

pytest_plugins = ["tests.support.fixtures"]

# Before torch is imported: threads that spin while they wait slow each other down where tests start services and jobs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What is imported for the tests stays to the end: the collector looks at it neither meanwhile nor afterwards.
gc.disable()

# Files whose tests start many processes take longest, and wait more than they compute.
LONG = ("faults", "quickstart", "clients_matrix", "image", "s3", "workers", "live", "hub", "cli")
LONG_SHARE = 0.7


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the order within a file, which is what is handed out: long files among short ones, so that somebody always computes
    where others wait, and the last long one well before the end, so that none has a core to itself.
    """
    files = list(dict.fromkeys(item.path for item in items))
    long = sorted((path for path in files if _rank(path) < len(LONG)), key=_rank)
    short = [path for path in files if _rank(path) == len(LONG)]
    places = {path: number / len(long) * LONG_SHARE for number, path in enumerate(long)}
    places |= {path: number / len(short) for number, path in enumerate(short)}
    items.sort(key=lambda item: places[item.path])


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def _rank(path: Path) -> int:
    folder = path.relative_to(Path(__file__).parent).parts[0]
    return LONG.index(folder) if folder in LONG else len(LONG)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server."""
    with running_s3() as server:
        yield server
