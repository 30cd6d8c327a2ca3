"""What a serving engine is told about a port."""
