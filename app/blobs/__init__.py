"""Where bytes are kept: a small protocol, stores that pass one conformance suite, one file that draws every key.

May import: `app.core` (sources), `app.domain` (errors). Promises: bytes under a digest have that digest; what is not
complete and verified is never visible there.
"""
