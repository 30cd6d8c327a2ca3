"""Patches and releases as a Hub client sees them: repositories, refs, commits, listings, model cards, pushes."""
