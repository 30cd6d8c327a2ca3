"""Blob stores: bytes by digest, in a directory or in S3. All stores pass one conformance suite.

May import: `app.core` (sources), `app.domain` (errors). Promises: the bytes under a digest are complete and
were verified against it; only the module `layout` builds keys and paths.
"""
