"""kill -9 at random moments: nothing half-visible afterwards, and everything goes on by itself."""
