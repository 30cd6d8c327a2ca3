"""The service in a process of its own, used over HTTP and through `portllm`."""
