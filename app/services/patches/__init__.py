"""Patches, versions, aliases, drafts, publishing, imports, tombstones."""
