"""Use cases, in packages by area: each function implements one use case, in one transaction, for a principal.

May import: `app.db`, `app.blobs`, `app.clients`, `app.domain`, `app.core` (never `app.core.tensor`). Promises: functions take a
unit of work and never commit; rows, events and jobs are written in the same transaction; errors come from the catalogue.
Areas are layers: a lower area never imports an upper one (`.importlinter`).
"""
