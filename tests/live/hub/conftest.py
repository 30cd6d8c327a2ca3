"""A running service with a family, a patch and its ports, as stock clients find it."""

from tests.support.live_fixtures import models, service
from tests.support.shop import large, shop

__all__ = ["large", "models", "service", "shop"]
