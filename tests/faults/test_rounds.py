"""The rounds themselves: one that fails is counted, told and mended; the rest go on, and the test fails after the last."""

import pytest

from tests.faults import rounds, tally


class _World:
    backend = "none"
    mended = 0

    def mend(self) -> None:
        self.mended += 1


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tally of its own."""
    monkeypatch.setattr(tally, "LINES", {})
    monkeypatch.setattr(tally, "SWEPT", {})
    monkeypatch.setattr(rounds, "ROUNDS", 4)


@pytest.mark.usefixtures("counts")
def test_a_round_that_fails_does_not_end_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    """All four run; the second is told with its seed and counted for both operations."""
    world, begun = _World(), []

    def one(title: str) -> None:
        with tally.one_round("fault", ["a", "b"], world.backend):
            begun.append(title)
            assert len(begun) != 2, "as it happens"

    with pytest.raises(pytest.fail.Exception, match=rf"rounds \[2\] of 4 failed, PORTLLM_SOAK_SEED={rounds.SEED}"):
        rounds.each_round(world, "fault", one)  # type: ignore[arg-type]
    assert begun == [f"fault {number}/4" for number in range(1, 5)]
    assert world.mended == 1
    said = capsys.readouterr().out
    assert f"fault 2/4 failed, PORTLLM_SOAK_SEED={rounds.SEED}" in said
    assert "as it happens" in said
    assert [(line.rounds, line.failures) for line in tally.LINES.values()] == [(4, 1), (4, 1)]


@pytest.mark.usefixtures("counts")
def test_a_world_that_cannot_be_mended_ends_the_rounds() -> None:
    """What comes after would only say it again."""

    class Broken(_World):
        def mend(self) -> None:
            raise OSError("gone")

    begun = []

    def one(title: str) -> None:
        begun.append(title)
        raise ValueError

    with pytest.raises(OSError, match="gone"):
        rounds.each_round(Broken(), "fault", one)  # type: ignore[arg-type]
    assert len(begun) == 1


@pytest.mark.usefixtures("counts")
def test_the_table() -> None:
    """Every operation has its rounds; orphans stand once for each fault, with their kinds, and are shared out to nobody."""
    assert tally.table() == []
    for operation in (["a", "b"], ["a"]):
        with tally.one_round("kill", operation, "X"):
            pass
    with tally.one_round("other", ["a"], "X"):
        pass
    tally.swept("kill", "X", {"drafts": 1, "blobs": 2, "parts": 0})
    tally.swept("other", "X", {"drafts": 0})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in tally.table()]
    assert rows[0] == ["fault", "operation", "backend", "rounds", "failures", "seconds", "orphans swept"]
    assert set("".join(rows[1])) == {"-"}
    assert rows[2:] == [
        ["kill", "a", "X", "2", "0", "0", ""],
        ["kill", "b", "X", "1", "0", "0", ""],
        ["kill", "(all of them)", "X", "", "", "", "3 (2 blobs, 1 drafts)"],
        ["other", "a", "X", "1", "0", "0", ""],
        ["other", "(all of them)", "X", "", "", "", "0"],
    ]
