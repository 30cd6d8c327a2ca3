"""Look-ups over many paths: the number of comparisons grows with the number of paths, not with its square."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.checkpoint import choose_files
from app.core.source import DirectorySource
from app.domain.path_index import PathIndex

PATHS = st.lists(st.sampled_from(["a", "b", "a/b", "a/c", "a/b/c", "a0", "a/b0", "a/b-x", "b/\u00e9", "a.b/c", "a/"]), max_size=8)


class Counted(str):
    """A path that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    def __lt__(self, other: str) -> bool:
        Counted.compared += 1
        return str.__lt__(self, other)

    __hash__ = str.__hash__


def comparisons(work: Callable[[], object]) -> int:
    before = Counted.compared
    work()
    return Counted.compared - before


@settings(max_examples=60, deadline=None)
@given(PATHS, PATHS, st.sampled_from(["a", "b", "a/b", "c", "a.b"]))
def test_an_index_finds_what_a_scan_finds(paths: list[str], more: list[str], directory: str) -> None:
    index = PathIndex(paths)
    for path in more:
        index.add(path)
    for path in more[:2]:
        index.discard(path)
    kept = sorted(({*paths, *more}) - set(more[:2]))
    inside = [path for path in kept if path.startswith(f"{directory}/")]
    assert index.below(directory) == inside
    assert index.discard_below(directory) == inside
    assert index.below(directory) == []


def test_comparisons_of_folder_look_ups_do_not_grow_with_the_square() -> None:
    """As many folders are asked for, and removed, as there are files."""

    def ask(count: int) -> int:
        paths = [Counted(f"folder{number:06}/file") for number in range(count)]

        def work() -> None:
            index = PathIndex(paths)
            for number in range(count):
                index.below(f"folder{number:06}")
                index.discard_below(f"folder{number:06}")

        return comparisons(work)

    assert ask(4_000) < 8 * ask(1_000)


def test_comparisons_of_shards_do_not_grow_with_the_square(tmp_path: Path) -> None:
    """Each file of a release is looked for among the shards that the index names."""

    def choose(count: int) -> int:
        directory = tmp_path / str(count)
        directory.mkdir()
        names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(count)]
        texts = {
            "config.json": json.dumps({"model_type": "llama"}),
            "model.safetensors.index.json": json.dumps({"weight_map": {f"t{number}": name for number, name in enumerate(names)}}),
        }
        for name, text in texts.items():
            (directory / name).write_text(text)
        files = {Counted(name): 8 for name in names} | {Counted(name): len(text) for name, text in texts.items()}
        with DirectorySource(directory) as source:
            return comparisons(lambda: choose_files(source, files))

    assert choose(800) < 8 * choose(200)


@pytest.mark.parametrize("directory", ["", "a", "a/b"])
def test_an_empty_index_has_nothing_below_any_directory(directory: str) -> None:
    assert PathIndex().below(directory) == []
