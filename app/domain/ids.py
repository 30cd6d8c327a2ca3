"""Identifiers: a prefix that tells the noun, then 48 bits of time and 80 of chance, so that they sort by age."""

import secrets
import time


def new_id(prefix: str) -> str:
    """For example "prt_0192f3c8a1b2" + 20 hex digits."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
