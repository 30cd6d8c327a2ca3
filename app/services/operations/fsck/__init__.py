"""fsck: compares the database with the stored bytes, and with itself.

May import: what services may. Promises: it is read-only; memory is bounded regardless of the size of the registry; rows and bytes
that change during the check are not reported as trouble; anything that could not be checked is reported.
"""
