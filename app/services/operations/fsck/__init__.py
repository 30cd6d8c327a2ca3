"""The check of database against bytes: what is named and not there, what is there and not named, what contradicts itself.

May import: what services may. Promises: changes nothing; bounded memory whatever the size of the registry; what came or went
while it looked is no trouble; what it could not look at is said, not passed over.
"""
