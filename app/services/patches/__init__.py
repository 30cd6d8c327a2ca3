"""Patches, their versions and aliases, drafts, publishing, imports, tombstones."""
