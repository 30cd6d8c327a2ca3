"""The same service and models as for the client tests."""

from tests.support.live_fixtures import models, service
from tests.support.shop import large, shop

__all__ = ["large", "models", "service", "shop"]
