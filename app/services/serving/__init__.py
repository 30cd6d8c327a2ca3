"""Which engines can serve a port, and the commands that start them."""
