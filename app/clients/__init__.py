"""Clients: what this service asks of others over the wire.

May import: domain and core; httpx. Promises: bounded memory, a timeout on everything, and no error of a library comes up.
"""
