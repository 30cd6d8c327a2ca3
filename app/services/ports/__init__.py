"""Ports: assessment, creation, merged files, digests, materialisations."""
