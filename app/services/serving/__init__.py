"""Which engine can serve a port, and how to start it."""
