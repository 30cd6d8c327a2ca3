"""Opening releases and patches, merge plans, and reading stored files."""
