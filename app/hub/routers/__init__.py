"""Routers of the Hub protocol, one for each resource."""
