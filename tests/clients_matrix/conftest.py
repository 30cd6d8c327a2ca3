"""The same service and models as for the client tests."""

from tests.live.hub.conftest import large, models, service, shop

__all__ = ["large", "models", "service", "shop"]
