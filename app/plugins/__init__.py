"""Plug-ins for other programs: a LoRA resolver for vLLM.

They import only the standard library, httpx and the program that they run in; no other package of `app`. They can therefore be
installed in that program's environment without the dependencies of the service (`pip install --no-deps`).
"""
