"""Parts that run inside other programs."""
