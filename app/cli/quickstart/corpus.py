"""Turns files of the Python installation into a training text and a held-out text.

The split is by file, and by resemblance: licences, generated headers and vendored copies repeat a lot, so a file that
resembles the training text never becomes held-out text, and the other way round.
"""

from __future__ import annotations

import hashlib
import random
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.cli.quickstart.scale import Progress, Scale, silent
from app.cli.quickstart.sources import KINDS, find_files, installation_roots, read_text

MIN_KINDS = 4
MIN_TRAIN_FILES = 12
MIN_HELDOUT_FILES = 3
_MIN_CHARS = 400
_SHINGLE_WORDS = 8
# Above this share of common shingles two texts count as versions of each other. Files of one project share a licence
# header of about a hundred words, which in most files stays well below it.
_RESEMBLES = 0.3
# Above these shares a text adds nothing to its own side. Held-out text is stricter: versions of one licence would
# count several times in a score.
_TRAIN_COPIES = 0.97
_HELDOUT_COPIES = 0.8

MIXTURES: Mapping[str, Mapping[str, float]] = {
    "v1": {"python": 0.40, "header": 0.30, "stub": 0.10, "licence": 0.05, "docs": 0.10, "config": 0.05},
    "v2": {"python": 0.20, "header": 0.10, "stub": 0.10, "licence": 0.10, "docs": 0.40, "config": 0.10},
    "v3": {"python": 0.15, "header": 0.10, "stub": 0.15, "licence": 0.30, "docs": 0.20, "config": 0.10},
    "v4": {"python": 0.15, "header": 0.10, "stub": 0.15, "licence": 0.05, "docs": 0.15, "config": 0.40},
}
"""Release -> kind -> share of its pretraining windows."""


class CorpusError(RuntimeError):
    """The Python installation does not carry enough text for the quickstart."""


@dataclass(frozen=True, slots=True)
class Document:
    """One file: its kind, its name (`root:relative/path`) and the text used of it."""

    kind: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """One snippet of a file and the kind it is from."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """The text of one quickstart run.

    Attributes:
        kinds: the kinds that are there, in the order of `KINDS`.
        train: what tokenizer, models and patches learn from.
        heldout: what they are measured on.
        notes: sentences for the reader, such as kinds that had to be left out.
    """

    kinds: tuple[str, ...]
    train: tuple[Document, ...]
    heldout: tuple[Document, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Side:
    """One side of the split while it is being filled; `copies` is the resemblance from which it takes no more."""

    copies: float
    shingles: set[int] = field(default_factory=set)
    documents: dict[str, list[Document]] = field(default_factory=dict)

    def resemblance(self, shingles: set[int]) -> float:
        """Share of the given shingles that this side already holds, 0 to 1."""
        return len(shingles & self.shingles) / len(shingles) if shingles else 0.0

    def files(self, kind: str) -> int:
        """Files of one kind on this side."""
        return len(self.documents.get(kind, ()))

    def chars(self, kind: str) -> int:
        """Characters of one kind on this side."""
        return sum(len(document.text) for document in self.documents.get(kind, ()))

    def add(self, document: Document, shingles: set[int]) -> None:
        """Put a document on this side."""
        self.shingles |= shingles
        self.documents.setdefault(document.kind, []).append(document)


def gather(scale: Scale, *, roots: Mapping[str, Path] | None = None, progress: Progress = silent) -> Corpus:
    """Gather text from the running Python installation and split it.

    Args:
        scale: uses `seed`, `chars_per_kind`, `chars_per_file` and `heldout_share`.
        roots: short name -> directory to read; the standard library and site-packages where not given.
        progress: told about every kind.

    Returns:
        The corpus; the same for the same files, scale and seed.

    Raises:
        CorpusError: fewer than `MIN_KINDS` kinds have enough files.
    """
    files = find_files(installation_roots() if roots is None else roots, scale.seed)
    train, heldout, seen = _Side(_TRAIN_COPIES), _Side(_HELDOUT_COPIES), set[bytes]()
    kinds: list[str] = []
    notes: list[str] = []
    for done, kind in enumerate(KINDS):
        progress(done, len(KINDS), f"reading {kind} files")
        for name, path in files[kind]:
            if train.chars(kind) + heldout.chars(kind) >= scale.chars_per_kind:
                break
            text = read_text(path)
            if text is not None and len(text) >= _MIN_CHARS:
                _place(Document(kind, name, text[: scale.chars_per_file]), train, heldout, seen, scale)
        counts = train.files(kind), heldout.files(kind)
        if counts[0] >= MIN_TRAIN_FILES and counts[1] >= MIN_HELDOUT_FILES:
            kinds.append(kind)
        else:
            notes.append(
                f"left out {kind} files: {counts[0]} to train on and {counts[1]} to hold out were found,"
                f" {MIN_TRAIN_FILES} and {MIN_HELDOUT_FILES} are needed"
            )
    progress(len(KINDS), len(KINDS), "; ".join(notes) or f"{len(kinds)} kinds of file")
    if len(kinds) < MIN_KINDS:
        raise CorpusError(
            f"This Python installation carries too little text: only {len(kinds)} kinds of file have enough"
            f" ({', '.join(kinds) or 'none'}), {MIN_KINDS} are needed. Install the package with its dependencies into"
            f" an ordinary virtual environment and try again. Details: {'; '.join(notes)}."
        )
    return Corpus(
        kinds=tuple(kinds),
        train=tuple(d for kind in kinds for d in train.documents[kind]),
        heldout=tuple(d for kind in kinds for d in heldout.documents[kind]),
        notes=tuple(notes),
    )


def sample_examples(documents: Sequence[Document], kinds: Sequence[str], count: int, chars: int, seed: int) -> list[Example]:
    """Cut snippets out of documents: as many of each kind, files taking turns, each starting at a line.

    Args:
        documents: where to cut from.
        kinds: the kinds to cut, each of which has at least one document.
        count: snippets in all; the first kinds get one more where it does not divide evenly.
        chars: characters of a snippet, fewer where the file ends.
        seed: decides files, places and order.

    Returns:
        `count` examples in mixed order, the same for the same arguments.
    """
    rng = random.Random(f"{seed}:examples")
    examples: list[Example] = []
    for position, kind in enumerate(kinds):
        of_kind = [document for document in documents if document.kind == kind]
        rng.shuffle(of_kind)
        for turn in range(count // len(kinds) + (position < count % len(kinds))):
            text = of_kind[turn % len(of_kind)].text
            at = rng.randrange(max(1, len(text) - chars))
            line = text.rfind("\n", 0, at) + 1
            examples.append(Example(text[line : line + chars], kind))
    rng.shuffle(examples)
    return examples


def _place(document: Document, train: _Side, heldout: _Side, seen: set[bytes], scale: Scale) -> None:
    """Put a document on the side that is short of text, or where its likeness already is, or nowhere."""
    words = re.findall(r"\w+", document.text.lower())
    digest = hashlib.sha256(" ".join(words).encode()).digest()
    if digest in seen:
        return
    seen.add(digest)
    shingles = _shingles(words)
    kind = document.kind
    held, trained = heldout.files(kind), train.files(kind)
    # Training text first: what half of all files share (the MIT licence, say) should be on that side, or be lost.
    short_of_heldout = trained >= MIN_TRAIN_FILES and held < scale.heldout_share * (trained + held)
    near, far = (heldout, train) if short_of_heldout else (train, heldout)
    if far.resemblance(shingles) >= _RESEMBLES:
        near, far = far, near
    if far.resemblance(shingles) < _RESEMBLES and near.resemblance(shingles) < near.copies:
        near.add(document, shingles)


def _shingles(words: Sequence[str]) -> set[int]:
    """Checksums of every run of `_SHINGLE_WORDS` words, one in four kept: enough to compare, a quarter of the memory."""
    sums = (
        zlib.crc32(" ".join(words[at : at + _SHINGLE_WORDS]).encode()) for at in range(max(1, len(words) - _SHINGLE_WORDS + 1))
    )
    return {value for value in sums if value % 4 == 0}
