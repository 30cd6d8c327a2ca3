"""For all tests."""

import os
from collections.abc import Iterator

import pytest

from tests.support.s3 import S3Server, running_s3

# Before torch is imported: threads that spin while they wait slow each other down where tests start services and jobs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server."""
    with running_s3() as server:
        yield server
