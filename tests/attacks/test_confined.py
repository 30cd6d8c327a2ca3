"""Files beneath allowed directories: a link that is swapped between the judgement and the open leads nowhere."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.core.confined import OutsideError, open_beneath
from app.core.errors import CoreError
from app.core.source import DirectorySource, stat_of

SECRET, HARMLESS = b"outside", b"inside"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An allowed directory with a file, beside one that is not allowed."""
    allowed = tmp_path / "root"
    (allowed / "model").mkdir(parents=True)
    (allowed / "inside.txt").write_bytes(HARMLESS)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/secret.txt").write_bytes(SECRET)
    return allowed


def content(path: Path, *roots: Path) -> bytes:
    descriptor = open_beneath(path, roots)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def point(link: Path, target: Path | str) -> None:
    """Makes a link lead somewhere else in one step."""
    staged = link.with_name(f".{link.name}")
    staged.symlink_to(target)
    staged.replace(link)


@pytest.mark.parametrize("target", ["../inside.txt", "{root}/inside.txt", "folder/inside.txt", "hop"])
def test_links_that_lead_inside_are_followed(root: Path, target: str) -> None:
    """Relative, absolute, by way of a folder that is a link, and by two hops."""
    (root / "model/folder").symlink_to("..")
    (root / "model/hop").symlink_to("../inside.txt")
    (root / "model/notes.txt").symlink_to(target.format(root=root))
    assert content(root / "model/notes.txt", root) == HARMLESS


def test_links_between_two_roots_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "model/notes.txt").symlink_to(tmp_path / "other/secret.txt")
    assert content(root / "model/notes.txt", root, tmp_path / "other") == SECRET


@pytest.mark.parametrize(
    "target", ["../../other/secret.txt", "{outside}/secret.txt", "out/secret.txt", "/proc/self/root/etc/hosts"]
)
def test_links_that_lead_outside_are_refused(root: Path, tmp_path: Path, target: str) -> None:
    (root / "model/out").symlink_to(tmp_path / "other")
    (root / "model/notes.txt").symlink_to(target.format(outside=tmp_path / "other"))
    with pytest.raises(OutsideError):
        open_beneath(root / "model/notes.txt", [root])


def test_a_directory_whose_name_begins_like_a_root_is_outside(root: Path) -> None:
    beside = root.with_name("root-beside")
    beside.mkdir()
    (beside / "secret.txt").write_bytes(SECRET)
    with pytest.raises(OutsideError):
        open_beneath(beside / "secret.txt", [root])


def test_links_in_a_circle_are_an_error_of_the_system(root: Path) -> None:
    (root / "model/notes.txt").symlink_to("notes.txt")
    with pytest.raises(OSError, match="symbolic links"):
        open_beneath(root / "model/notes.txt", [root])


def swapped_file(root: Path) -> tuple[Path, Callable[[int], None]]:
    link = root / "model/notes.txt"
    link.symlink_to("../inside.txt")
    targets = [root / "inside.txt", root.parent / "other/secret.txt"]
    return link, lambda turn: point(link, targets[turn % 2])


def swapped_folder(root: Path) -> tuple[Path, Callable[[int], None]]:
    """A folder on the way, which is a real one and a link by turns."""
    folder, outside = root / "model/folder", root / "model/link"
    folder.mkdir()
    (folder / "secret.txt").write_bytes(HARMLESS)
    outside.symlink_to(root.parent / "other")

    def swap(_: int) -> None:
        folder.rename(root / "model/third")
        outside.rename(folder)
        (root / "model/third").rename(outside)

    return folder / "secret.txt", swap


@pytest.mark.parametrize("make", [swapped_file, swapped_folder])
def test_a_link_that_is_swapped_all_the_time_leads_nowhere(
    root: Path, make: Callable[[Path], tuple[Path, Callable[[int], None]]]
) -> None:
    """Whatever is opened lies inside, however often the link leads outside while a path is resolved, judged and opened."""
    path, swap = make(root)
    ended = threading.Event()

    def keep_swapping() -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            swap(turn)

    swapper = threading.Thread(target=keep_swapping)
    swapper.start()
    seen = dict[str, int]()
    try:
        for _ in range(3000):
            try:
                found = content(path, root).decode()
            except (OutsideError, OSError) as refused:
                found = type(refused).__name__
            seen[found] = seen.get(found, 0) + 1
    finally:
        ended.set()
        swapper.join()
    assert SECRET.decode() not in seen
    assert seen.get("OutsideError", 0) > 0, seen


def test_a_source_judges_again_when_it_opens(root: Path) -> None:
    """What was registered is the very file that the link leads to, and it lies outside: it is not read."""
    secret = root.parent / "other/secret.txt"
    (root / "model/notes.txt").symlink_to(secret)
    expected = {"notes.txt": stat_of(secret)}
    with DirectorySource(root / "model", expected, beneath=[root]) as source, pytest.raises(CoreError) as refused:
        source.size("notes.txt")
    assert refused.value.code == "checkpoint.link"


def test_a_pipe_beneath_a_root_is_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "model/notes.txt")
    with DirectorySource(root / "model", beneath=[root]) as source, pytest.raises(CoreError) as refused:
        source.size("notes.txt")
    assert refused.value.code == "checkpoint.changed"
