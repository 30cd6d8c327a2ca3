"""For all tests."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.s3 import S3Server, running_s3

# Before torch is imported: threads that spin while they wait slow each other down where tests start services and jobs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What is imported for the tests stays to the end: the collector looks at it neither meanwhile nor afterwards.
gc.disable()

# Files whose tests start many processes take longest: begun first, so that none is left at the end with a core to itself.
LONG = ("faults", "quickstart", "clients_matrix", "image", "s3", "workers", "live", "hub", "cli")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the order within a file, which is what is handed out."""
    items.sort(key=_rank)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    return LONG.index(folder) if folder in LONG else len(LONG)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server."""
    with running_s3() as server:
        yield server
