"""The event log by page, and the live event feed."""
