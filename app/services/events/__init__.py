"""The event log, read page by page, and the live event feed."""
