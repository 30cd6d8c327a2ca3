"""Jobs as users see them, and the workers that run them."""
