"""Benchmarks: scripts that print a table and a ratio, run on demand (`python -m tests.benchmarks NAME`), never by pytest.

Every module here that `__main__` lists has `run(options)`; `harness` measures processes and prints, `model` builds the inputs.
"""
