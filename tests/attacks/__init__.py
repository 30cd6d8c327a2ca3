"""Hostile files: each is refused by its own code, quickly, and nothing of it reaches anybody else."""
