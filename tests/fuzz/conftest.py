"""Registries to be fuzzed, without anything of the other tests in them."""

import pytest

from tests.fuzz.budget import SECONDS, Share
from tests.support.fuzz_world import lent, registry


def pytest_collection_finish(session: pytest.Session) -> None:
    Share.properties = max(1, len(session.items))
    if SECONDS:  # a property has its share of the time, and a while to shrink what it found
        for item in session.items:
            item.add_marker(pytest.mark.timeout(SECONDS / Share.properties + 900))


# For properties that make things of their own: what it came with stays.
ordered = registry("fuzz")
world = lent("ordered")
# For properties that may do anything with what there is: nothing is sure to be there.
roamed = registry("wild")
wild = lent("roamed")
