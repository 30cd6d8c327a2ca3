"""Operations: maintenance, retention, garbage collection, erasure, fsck, readiness, metrics."""
