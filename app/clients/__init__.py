"""Clients: what this service asks of others over the wire.

May import: domain and core; httpx, PyJWT. Promises: bounded memory, a timeout on everything, and no error of a library comes up;
addresses that somebody named are asked through `guarded` only.
"""
