"""Checks of the source itself: layers, layout of the tests, error codes, documentation."""
