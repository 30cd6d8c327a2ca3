"""Hostile input by the thousand: generated requests, files and headers, and what must hold whatever they are.

`make fuzz` runs for an hour (PORTLLM_FUZZ_SECONDS); beside the other tests each property gets a few examples, always the same.
"""
