"""Blob stores: bytes by digest, in a directory or in S3. All stores pass one conformance suite.

May import: `app.core` (sources), `app.domain` (errors). Promises: the bytes under a digest have that digest, and are complete and
verified; keys and paths are made in one module (`layout`).
"""
