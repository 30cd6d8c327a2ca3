"""Tests: a folder for each package of `app`, and folders for what crosses them (attacks, faults, live services, S3, workers)."""
