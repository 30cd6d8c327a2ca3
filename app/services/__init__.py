"""Use cases: one function is one use case in one transaction, for a principal.

May import: `app.db`, `app.blobs`, `app.clients`, `app.domain`, `app.core` (never `app.core.tensor`). Promises: flushes, never
commits; facts, events and the intent to run a job are written together; comes back with values or with a named error.
"""
