"""Helpers and fixtures that several test modules use. Nothing here replaces a function of `app`."""
