"""Parts that run in other programs: a LoRA resolver for vLLM.

They import the standard library, httpx and, where it calls them, the program that they run in; no other package of `app`. So they
can be installed beside that program without the dependencies of the service (`pip install --no-deps`).
"""
