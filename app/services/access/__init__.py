"""Access control and limits: tokens, token exchange, grants, quotas, rate limits, secret keys, idempotency keys."""
