"""Formats and arithmetic: what a checkpoint and a patch are, and what their sum is.

Lives here: safetensors headers, checkpoints, PEFT adapters, recipes, merge plans, merge on read, data-free signals.
May import: the standard library, RE2, and torch below ``app.core.tensor`` only.
Promises: usable alone (no server, no database); the same recipe gives the same bytes whatever range is asked for;
what is not understood is refused by a named error (`app.core.errors`), never skipped.
"""
