"""Formats and arithmetic: safetensors headers, checkpoints, PEFT adapters, recipes, merge plans, merge on read, signals.

May import: the standard library, RE2, and torch in `app.core.tensor` only.
Promises: usable without a server or a database; the same recipe gives the same bytes for every range that is read;
unknown input is refused with a named error (`app.core.errors`), never skipped.
"""
