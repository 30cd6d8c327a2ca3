"""A running service and tiny models."""

from tests.support.live_fixtures import models, service

__all__ = ["models", "service"]
