"""One PostgreSQL server for the session, tiny models, and a service without workers for each file of tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.live_fixtures import models
from tests.support.workers import Cluster, Fleet

__all__ = ["models"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server. The path of a socket must be short, which pytest's directories are not."""
    with tempfile.TemporaryDirectory(prefix="pg") as root:
        server = Cluster(Path(root) / "data")
        yield server
        server.stop()


@pytest.fixture(scope="module")
def fleet(cluster: Cluster, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A service that runs no jobs itself; it may read the tiny models and everything below its own root / "releases"."""
    root = tmp_path_factory.mktemp("fleet")
    (root / "releases").mkdir()
    service = Fleet(root, cluster.database(), models, root / "releases")
    service.start()
    yield service
    service.kill()
