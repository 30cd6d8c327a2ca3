"""Operations: maintenance, retention, garbage collection, purges, fsck, readiness, metrics."""
