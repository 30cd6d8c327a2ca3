"""What the HTTP surfaces share: who asks, rates, units of work, errors, files by range, metrics, bounds on requests.

May import: services and below, FastAPI. Promises: no surface; the same token, the same charge and the same error mean the same
on every one of them.
"""
