"""The command line: `portllm`.

Lives here: one module per noun or verb, the HTTP client they share, and the quickstart.
May import: the roots and everything below; heavy libraries only inside the verb that needs them, so that `portllm merge`
starts as fast as torch does and `portllm ls` starts at once.
Promises: `--json` on every verb that reads; exit code 0 done, 1 refused or failed, 2 wrong usage; progress on a terminal.
"""
