"""Who may do what, and how much: tokens, token exchange, grants, quotas, rate limits, secret keys, idempotency keys."""
