"""Uploads and the reservations of their bytes."""
