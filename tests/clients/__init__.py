"""Requests that the service sends, answered by real servers that behave badly."""
