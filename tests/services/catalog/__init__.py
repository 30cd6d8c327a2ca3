"""Families, releases, base aliases and upstreams."""
