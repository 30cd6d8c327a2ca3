"""Families, releases and their ingestion, base aliases, upstream hubs."""
