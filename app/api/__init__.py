"""The REST API under `/api/v1`: one router for each noun, which parses a request, calls a service and returns JSON.

May import: services and the layers below, FastAPI, Pydantic. Promises: every error is application/problem+json with a documented
code; without a token, only health, documentation and error pages are accessible; a transaction is committed before its response
is sent.
"""
