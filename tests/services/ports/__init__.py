"""Ports, their checks, and merged files."""
