"""Routers of the REST API, one for each noun."""
