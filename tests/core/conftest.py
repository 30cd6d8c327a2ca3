"""Fixtures of the core tests: models that are made once."""

import pytest
from hypothesis import settings

from tests.support.models import Shelf

# Examples that compute take as long as the machine is busy; pytest-timeout ends what hangs.
settings.register_profile("core", deadline=None)
settings.load_profile("core")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Tiny models and patches, made once for each set of arguments; only to be read."""
    return Shelf(tmp_path_factory.mktemp("shelf"))
