"""Tokens, grants, quotas, rate limits, and the exchange of identity tokens."""
