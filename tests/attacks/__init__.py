"""Hostile files and requests: each is refused by its own code, quickly, and affects nobody else."""
