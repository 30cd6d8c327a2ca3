"""Events, and their live streams."""
