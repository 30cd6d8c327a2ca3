"""Formats, arithmetic and merge on read. No server, no database."""
