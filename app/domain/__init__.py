"""Rules of the registry that need no I/O: names, identifiers, states, principals, events, errors.

May import: the standard library. Promises: pure functions and values; errors do not know HTTP.
"""
