"""Migrations, upgrades, backups, and how errors of a database are reported."""
