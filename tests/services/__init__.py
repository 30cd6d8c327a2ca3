"""Services, by area."""
