"""Who may do what, and how much of it: tokens, token exchange, quotas, rate limits, encryption, idempotency."""
