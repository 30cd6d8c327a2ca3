"""What runs without a user: maintenance, retention, garbage collection, purges, fsck, readiness, metrics."""
