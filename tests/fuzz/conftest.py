"""Registries to be fuzzed, without anything of the other tests in them."""

from collections.abc import Iterator

import pytest

from tests.fuzz.budget import SECONDS, Share
from tests.fuzz.world import World, populated


def pytest_collection_finish(session: pytest.Session) -> None:
    Share.properties = max(1, len(session.items))
    if SECONDS:  # a property has its share of the time, and a while to shrink what it found
        for item in session.items:
            item.add_marker(pytest.mark.timeout(SECONDS / Share.properties + 900))


@pytest.fixture(scope="session")
def ordered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with populated(tmp_path_factory.mktemp("fuzz")) as made:
        yield made


@pytest.fixture
def world(ordered: World) -> Iterator[World]:
    """For properties that make things of their own: what it came with stays."""
    with ordered.listened_to():
        yield ordered


@pytest.fixture(scope="session")
def roamed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with populated(tmp_path_factory.mktemp("wild")) as made:
        yield made


@pytest.fixture
def wild(roamed: World) -> Iterator[World]:
    """For properties that may do anything with what there is: nothing is sure to be there."""
    with roamed.listened_to():
        yield roamed
