"""HTTP clients: requests that this service sends to workers, issuers and other hubs.

May import: domain and core; httpx, PyJWT. Promises: memory is bounded; every request has a timeout; all errors are from the
catalogue; URLs that a user or operator entered are only requested through `guarded`.
"""
