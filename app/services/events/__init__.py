"""The event log: reading it by page, and the live feed."""
