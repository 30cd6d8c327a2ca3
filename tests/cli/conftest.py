"""A running service and tiny models."""

from tests.live.fixtures import models, service

__all__ = ["models", "service"]
