"""The service as users have it: a process of its own, spoken to over the wire and through `portllm`."""
