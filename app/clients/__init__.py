"""HTTP clients: requests that this service sends to workers, issuers and other hubs.

May import: domain and core; httpx, PyJWT. Promises: bounded memory, a timeout for everything, only errors of our catalogue;
addresses that a user or operator entered are requested through `guarded`.
"""
