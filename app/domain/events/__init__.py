"""Events: what is recorded of each kind, one file per area."""
