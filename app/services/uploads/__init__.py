"""Bytes that are being uploaded: reservations, upload grants, pushed objects, Xet blocks."""
