"""Bytes that arrive: pushed objects, Xet blocks, upload grants, reservations."""
