"""The grid of blocks: every element once, in storage order, and the same blocks from wherever one begins."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core import stream
from app.core.arithmetic import Block
from app.core.recipe import BLOCK_ELEMENTS, MAX_ROW_ELEMENTS
from app.core.stream import grid

LIMIT = 64  # stands for MAX_ROW_ELEMENTS in small examples


def elements(block: Block, columns: int) -> list[int]:
    """Storage indices of a block's elements."""
    return [
        row * columns + column
        for row in range(block.row, block.row + block.rows)
        for column in range(block.column, block.column + block.columns)
    ]


@settings(max_examples=200)
@given(st.integers(0, 40), st.integers(0, 150), st.integers(1, 100), st.data())
def test_each_element_is_covered_once(rows: int, columns: int, block_elements: int, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "MAX_ROW_ELEMENTS", LIMIT)
        blocks = list(grid(rows, columns, block_elements))
        assert [e for block in blocks for e in elements(block, columns)] == list(range(rows * columns))
        assert all(block.rows * block.columns <= max(block_elements, LIMIT) for block in blocks)
        assert all(block.columns == columns for block in blocks) or columns > LIMIT
        if rows * columns:
            element = data.draw(st.integers(0, rows * columns - 1))
            rest = list(grid(rows, columns, block_elements, element))
            assert rest == blocks[-len(rest) :]
            assert element in elements(rest[0], columns)


@pytest.mark.parametrize("columns", [MAX_ROW_ELEMENTS - 1, MAX_ROW_ELEMENTS, MAX_ROW_ELEMENTS + 1, 3 * MAX_ROW_ELEMENTS + 5])
def test_wide_rows(columns: int) -> None:
    """Only a row of more than MAX_ROW_ELEMENTS is split, into pieces of BLOCK_ELEMENTS."""
    blocks = list(grid(2, columns))
    assert sum(b.rows * b.columns for b in blocks) == 2 * columns
    assert {b.rows for b in blocks} == {1}
    assert max(b.columns for b in blocks) == (columns if columns <= MAX_ROW_ELEMENTS else BLOCK_ELEMENTS)
    for element in (0, 1, BLOCK_ELEMENTS, columns - 1, columns, columns + BLOCK_ELEMENTS - 1, 2 * columns - 1):
        rest = list(grid(2, columns, element=element))
        assert rest == blocks[-len(rest) :]
        first = rest[0].row * columns + rest[0].column
        assert first <= element < first + rest[0].columns


def test_whole_rows_fill_a_block() -> None:
    assert list(grid(5, 1000, 2500)) == [Block(0, 2, 0, 1000), Block(2, 2, 0, 1000), Block(4, 1, 0, 1000)]
