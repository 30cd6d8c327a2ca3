"""The same merge twice: by `app.core`, and by PEFT."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from app.core.offline import open_merger
from app.core.recipe import Recipe
from app.core.source import DirectorySource
from app.core.stream import Merger


@contextmanager
def opened(base: Path, patch: Path, recipe: Recipe | None = None) -> Iterator[Merger]:
    """A merger over two directories."""
    with open_merger(base, patch, recipe or Recipe()) as (merger, _, _):
        yield merger


def read(merger: Merger, path: str, start: int = 0, stop: int | None = None, threads: int = 2) -> bytes:
    """Bytes [start, stop) of a file of the merged model, streamed."""
    with ThreadPoolExecutor(threads) as pool:
        return b"".join(merger.stream(path, start, stop, pool=pool))


class CountingSource(DirectorySource):
    """A directory that keeps book of what is read of it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.bytes_read: Counter[str] = Counter()
        self.reads: list[tuple[str, int, int]] = []  # path, offset, length

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        self.bytes_read[path] += len(buffer)
        self.reads.append((path, offset, len(buffer)))
        super().read_into(path, offset, buffer)


def merge_with_peft(base: Path, patch: Path, out: Path, dtype: str = "auto") -> Path:
    """PEFT's default path: from_pretrained, merge_and_unload, save_pretrained.

    Args:
        base: the base model.
        patch: the PEFT patch.
        out: the directory to write.
        dtype: "auto" for the dtype of the base, or "float32" to see the merge before it is rounded to that dtype.
    """
    wanted = "auto" if dtype == "auto" else getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=wanted)
    PeftModel.from_pretrained(model, patch).merge_and_unload().save_pretrained(out)
    return out


def digests(directory: Path) -> dict[str, str]:
    """sha256 (hex) of every file below a directory."""
    files = sorted(p for p in directory.rglob("*") if p.is_file())
    return {p.relative_to(directory).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
