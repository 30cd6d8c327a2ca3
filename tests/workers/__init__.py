"""Workers as processes of their own, on a real PostgreSQL: takeover, fencing, routing, and reads that are handed to them."""
