"""Patches, their versions and drafts, and imports."""
