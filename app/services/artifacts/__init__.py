"""Opened releases and patches, plans, and the files that are read from them."""
