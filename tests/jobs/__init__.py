"""The job engine, its queues, and reports of progress."""
