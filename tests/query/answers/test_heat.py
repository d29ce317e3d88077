"""Heat maps on a terminal, sign by sign against the ranks that they show."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from vlq.query.answers.heat import (
    MOST_MAPS,
    MOST_ROWS,
    Layout,
    best_of_blocks,
    heat_maps,
    layout,
    legend,
    most_maps,
    spread,
)

pytestmark = pytest.mark.here("how a reading is drawn on a terminal")


def printed(lines: Sequence[Text], colour: bool = False) -> list[str]:
    sink = io.StringIO()
    options = {"force_terminal": True, "color_system": "truecolor"} if colour else {}
    console = Console(file=sink, soft_wrap=True, width=80, no_color=not colour, **options)  # type: ignore[arg-type]
    for line in lines:
        console.print(line)
    return sink.getvalue().splitlines()


RANKS = np.array([[0, 1, 2], [9, 10, 20]])


def test_every_rank_is_its_sign() -> None:
    lines = printed(heat_maps({4: RANKS, 11: RANKS[::-1]}, Layout(2, 1, 2, 2)))
    assert [line.rstrip() for line in lines] == [
        "layer 4     layer 11",
        "  0 1 2       0 1 2",
        "0 · 1 2     0 9 + +",
        "1 9 + +     1 · 1 2",
    ]


def test_colours_only_repeat_what_signs_say() -> None:
    plain, coloured = (printed(heat_maps({4: RANKS}, Layout(2, 1, 1, 2)), colour) for colour in (False, True))
    assert not any("\x1b" in line for line in plain)
    assert "48;2;253;231;37m1" in coloured[2]  # viridis' brightest behind rank 1
    assert [Text.from_ansi(line).plain.rstrip() for line in coloured] == [line.rstrip() for line in plain]


def test_the_legend_has_each_sign() -> None:
    (line,) = printed(legend(20))
    assert line == ("1 what the patch decodes to   2-9 its rank there   + rank 10 to 20   · not among the 20 best")
    assert "+" not in printed(legend(5))[0]


@pytest.mark.parametrize("shape", [(4, 4), (5, 7), (1, 9), (6, 1)])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_block_is_its_best_rank(shape: tuple[int, int], block: int) -> None:
    ranks = np.random.default_rng(block).integers(0, 4, shape)
    found = best_of_blocks(ranks, block)
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            part = ranks[row * block : (row + 1) * block, column * block : (column + 1) * block]
            assert found[row, column] == min((rank for rank in part.flat if rank), default=0)
    assert found.shape == tuple(-(-size // block) for size in shape)


@pytest.mark.parametrize("grid", [(1, 1), (8, 8), (24, 24), (100, 70), (70, 100), (3, 200), (300, 2), (16, 2000)])
@pytest.mark.parametrize("width", [20, 80, 100, 250])
def test_maps_fit_the_terminal(grid: tuple[int, int], width: int) -> None:
    chosen = layout(grid, width)
    count = most_maps(chosen)
    assert 1 <= count <= MOST_MAPS
    lines = heat_maps({layer: np.full(grid, 10) for layer in range(count)}, chosen)
    assert max(len(line) for line in lines) <= width
    assert len(lines) <= 2 * (2 + MOST_ROWS) + 1
    rows, columns = (-(-size // chosen.block) for size in grid)
    assert sum(line.plain.count("+") for line in lines) == count * rows * columns


def test_a_wide_terminal_shows_more() -> None:
    assert layout((24, 24), 80) == Layout(cell=1, block=1, beside=2, labels=3)
    assert layout((24, 24), 200) == Layout(cell=2, block=1, beside=3, labels=3)
    assert layout((100, 70), 80).block == 2
    assert [most_maps(layout((8, 8), width)) for width in (12, 30, 60)] == [2, 4, 6]


def test_columns_are_numbered_where_they_stand() -> None:
    lines = printed(heat_maps({0: np.ones((2, 24), int)}, layout((2, 24), 40)))
    numbers, row = lines[1], lines[2]
    for number in numbers.split():
        at = numbers.index(f" {number}") + 1
        assert row[at] == "1"
        assert at - 2 == int(number)


@pytest.mark.parametrize(
    ("first", "peak", "count", "expected"),
    [
        (0, 8, 3, [0, 4, 8]),
        (6, 8, 3, [6, 7, 8]),
        (7, 8, 4, [5, 6, 7, 8]),
        (1, 2, 5, [0, 1, 2, 3, 4]),
        (8, 2, 2, [2, 8]),
        (3, 5, 1, [5]),
        (4, 4, 20, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ],
)
def test_layers_lead_up_to_the_peak(first: int, peak: int, count: int, expected: list[int]) -> None:
    assert spread(first, peak, range(9), count) == expected
