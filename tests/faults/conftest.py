"""A running service, tiny models, a whole installation on PostgreSQL and S3; and the table at the end."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import tally
from tests.faults.world import Site
from tests.support.live_fixtures import models, service
from tests.support.s3 import S3Server
from tests.support.workers import Cluster

__all__ = ["models", "service"]


@pytest.fixture(scope="module")
def site(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """PostgreSQL, S3, a service and two workers."""
    with tempfile.TemporaryDirectory(prefix="pg") as place:  # short: a socket lies in it
        cluster = Cluster(Path(place) / "data")
        try:
            found = Site(tmp_path_factory.mktemp("site"), cluster, s3)
            try:
                found.service.start()
                found.hire()
                yield found
                found.check()
            finally:
                found.end()
        finally:
            cluster.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was survived, how often."""
    if lines := tally.table():
        terminalreporter.section("faults")
        for text in lines:
            terminalreporter.write_line(text)
