"""Parts that run inside other programs: a LoRA resolver for vLLM.

They import the standard library and httpx, nothing else of this house, and the program that they run in only where it calls
them: so they can be installed beside it without what the service needs (`pip install --no-deps`).
"""
