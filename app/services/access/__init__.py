"""TODO app/services/access."""
