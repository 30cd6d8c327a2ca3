"""Families, releases, base aliases, ingestion, upstream hubs."""
