"""REST under /api/v1: one router per noun; turns a request into one service call and its result into JSON.

May import: services and below, FastAPI, Pydantic. Promises: every error is application/problem+json with a documented code;
nothing but health, documentation and error pages answers without a token; commits happen before the response is sent.
"""
