"""What the HTTP surfaces share: authentication, limits on requests, errors, merged files by range, metrics.

May import: services and the layers below, FastAPI. Contains no routes; tokens, limits and errors are the same on
both surfaces.
"""
