"""The quickstart, its corpus and its training."""
