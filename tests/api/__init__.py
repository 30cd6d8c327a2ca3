"""The REST API: its documentation, the bounds of its inputs, and its lists."""
