"""The corpus: real text, the same every time, and nothing held out that was trained on."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.quickstart import corpus as corpus_module
from app.cli.quickstart.corpus import MIXTURES, Corpus, CorpusError, gather, sample_examples
from app.cli.quickstart.scale import Scale
from app.cli.quickstart.sources import KINDS, find_files, installation_roots, kind_of

SMALL = Scale.small()


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return gather(SMALL)


def write_files(root: Path, suffix: str, count: int, *, same: bool = False) -> None:
    """Files that share nothing with one another, or everything."""
    for number in range(count):
        word = "same" if same else f"word{number}"
        text = " ".join(f"{suffix.strip('.')}_{word}_{place}" for place in range(120))
        (root / f"file{number}{suffix}").write_text(text)


def shingles(text: str) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[at : at + 8]) for at in range(len(words) - 7)}


def test_the_installation_carries_at_least_five_kinds(corpus: Corpus) -> None:
    assert len(corpus.kinds) >= 5
    for side in (corpus.train, corpus.heldout):
        assert {document.kind for document in side} == set(corpus.kinds)
    total = sum(len(document.text) for document in (*corpus.train, *corpus.heldout))
    assert total <= len(corpus.kinds) * (SMALL.chars_per_kind + SMALL.chars_per_file)


def test_the_same_seed_gives_the_same_corpus_and_another_seed_another(corpus: Corpus) -> None:
    assert gather(SMALL) == corpus
    assert gather(dataclasses.replace(SMALL, seed=SMALL.seed + 1)) != corpus


def test_no_heldout_file_is_trained_on(corpus: Corpus) -> None:
    train_names = {document.name for document in corpus.train}
    train_words = {" ".join(re.findall(r"\w+", document.text.lower())) for document in corpus.train}
    for document in corpus.heldout:
        assert document.name not in train_names
        assert " ".join(re.findall(r"\w+", document.text.lower())) not in train_words


def test_no_heldout_file_resembles_what_is_trained_on(corpus: Corpus) -> None:
    """Counted with every shingle and with no checksums, unlike the code under test."""
    trained = set().union(*(shingles(document.text) for document in corpus.train))
    for document in corpus.heldout:
        own = shingles(document.text)
        # A quarter of the shingles decides, so the exact share may lie a little above the threshold of 0.3.
        assert len(own & trained) <= 0.45 * len(own), document.name


def test_only_the_installation_is_read(corpus: Corpus) -> None:
    roots = installation_roots()
    for document in (*corpus.train, *corpus.heldout):
        root, _, relative = document.name.partition(":")
        path = roots[root] / relative
        assert path.resolve().is_relative_to(roots[root])
        assert path.read_bytes().decode().replace("\r\n", "\n").startswith(document.text)
        assert kind_of(Path(relative)) == document.kind


def test_links_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.py").write_text("secret")
    (inside / "own.py").write_text("own")
    (inside / "linked.py").symlink_to(outside / "secret.py")
    (inside / "linked").symlink_to(outside)
    assert [name for name, _ in find_files({"site": inside}, seed=0)["python"]] == ["site:own.py"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("torch/nn/modules/linear.py", "python"),
        ("torch/include/c10/core/Device.h", "header"),
        ("numpy/random/mtrand.pyi", "stub"),
        ("numpy-2.4.6.dist-info/licenses/LICENSE.txt", "licence"),
        ("LICENSE.txt", "licence"),
        ("license_tools.py", "python"),
        ("rich-15.0.0.dist-info/METADATA", "docs"),
        ("rich-15.0.0.dist-info/RECORD", None),
        ("rich-15.0.0.dist-info/sboms/rich.cyclonedx.json", None),
        ("numpy/README.md", "docs"),
        ("torchgen/native_functions.yaml", "config"),
        ("torch/lib/libtorch.so", None),
    ],
)
def test_kinds_go_by_path(path: str, kind: str | None) -> None:
    assert kind_of(Path(path)) == kind


def test_a_kind_with_too_few_files_is_left_out_and_named(tmp_path: Path) -> None:
    for suffix in (".py", ".h", ".pyi", ".md"):
        write_files(tmp_path, suffix, 30)
    write_files(tmp_path, ".json", 5)
    seen: list[tuple[int, int, str]] = []
    corpus = gather(SMALL, roots={"site": tmp_path}, progress=lambda *report: seen.append(report))
    assert corpus.kinds == ("python", "header", "stub", "docs")
    assert len(corpus.notes) == 2
    assert "licence" in corpus.notes[0]
    assert "config" in corpus.notes[1]
    assert seen[-1][:2] == (len(KINDS), len(KINDS))
    assert "config" in seen[-1][2]


def test_too_few_kinds_are_refused_with_advice(tmp_path: Path) -> None:
    write_files(tmp_path, ".py", 30)
    write_files(tmp_path, ".h", 30, same=True)
    with pytest.raises(CorpusError, match=r"only 1 kinds.*\(python\).*virtual environment.*header files: 1 to train"):
        gather(SMALL, roots={"site": tmp_path})


def test_files_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    for suffix in (".py", ".h", ".pyi", ".md"):
        write_files(tmp_path, suffix, 30)
    (tmp_path / "binary.py").write_bytes(b"\0" * 1000)
    (tmp_path / "latin.py").write_bytes(b"\xe9" * 1000)
    corpus = gather(SMALL, roots={"site": tmp_path})
    names = {document.name for document in (*corpus.train, *corpus.heldout)}
    assert names.isdisjoint({"site:binary.py", "site:latin.py"})


def test_examples_are_balanced_snippets_of_their_kind(corpus: Corpus) -> None:
    examples = sample_examples(corpus.heldout, corpus.kinds, 64, SMALL.snippet_chars, seed=1)
    assert len(examples) == 64
    counts = [sum(example.label == kind for example in examples) for kind in corpus.kinds]
    assert max(counts) - min(counts) <= 1
    for example in examples:
        assert 0 < len(example.text) <= SMALL.snippet_chars
        assert any(example.text in d.text for d in corpus.heldout if d.kind == example.label)
    assert examples == sample_examples(corpus.heldout, corpus.kinds, 64, SMALL.snippet_chars, seed=1)
    assert examples != sample_examples(corpus.heldout, corpus.kinds, 64, SMALL.snippet_chars, seed=2)


def test_every_release_has_a_mixture_of_its_own() -> None:
    assert list(MIXTURES) == ["v1", "v2", "v3", "v4"]
    for mixture in MIXTURES.values():
        assert set(mixture) == set(KINDS)
        assert sum(mixture.values()) == pytest.approx(1)
    assert len({tuple(mixture.values()) for mixture in MIXTURES.values()}) == len(MIXTURES)


def test_the_corpus_needs_no_torch() -> None:
    code = f"import sys, {corpus_module.__name__}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
