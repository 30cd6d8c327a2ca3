"""fsck: compares the database with the stored bytes, and with itself.

May import: what services may. Promises: changes nothing; memory is bounded whatever the size of the registry; rows and bytes that
change during the check are not reported as trouble; what could not be checked is reported.
"""
