"""The rules of the registry that need no wire and no disk: names, identifiers, states, principals, refusals.

May import: the standard library. Promises: pure functions and values; errors know no HTTP.
"""
