"""What operators run: fsck, garbage collection, purges, maintenance, metrics, readiness, retention."""
