"""What goes out: real servers that behave badly."""
