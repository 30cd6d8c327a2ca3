"""Tests of the house itself: floors, error codes, documentation."""
