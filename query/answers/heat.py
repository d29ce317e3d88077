"""Heat maps on a terminal: at which rank a token is read in each patch of an image, layer beside layer.

A patch is its rank as a sign, so that nothing is told by colour alone; the colours are those of plots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.text import Text

GAP = 3
"""Columns of the terminal between two maps."""

MOST_ROWS = 50
"""Rows of a map: one of more patches is made smaller."""

MOST_MAPS = 6
"""Layers that are shown unless more are asked for."""

TITLE = len("layer 100")
"""Columns that a map takes at least."""

STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Of how many columns one has its number."""

COLOURS = ((1, "black on #fde725"), (3, "black on #5ec962"), (9, "white on #21918c"), (255, "white on #3b528b"))
"""Up to which rank what colour: viridis, from its bright end."""

NOWHERE = ("·", "dim")
"""A patch that does not have the token among its k best."""


@dataclass(frozen=True)
class Layout:
    """How maps of one grid are drawn."""

    cell: int  # columns of the terminal that a cell takes
    block: int  # rows and columns of patches that make a cell
    beside: int  # maps in a line
    labels: int  # columns of the terminal that the rows' numbers take


def layout(grid: tuple[int, int], width: int) -> Layout:
    """What suits a grid (rows, columns) and a terminal's width.

    Cells are two columns wide, which makes them square, unless then fewer than three maps would fit beside each other.
    Where not even narrow ones fit, or there are too many rows, blocks of patches become one cell.
    """
    rows, columns = grid
    labels = len(str(rows - 1)) + 1
    block = max(1, -(-columns // max(1, width - labels)), -(-rows // MOST_ROWS))
    cells = -(-columns // block)

    def beside(cell: int) -> int:
        whole = max(labels + cells * cell, TITLE)
        return 0 if whole > width else 1 + (width - whole) // (whole + GAP)

    cell = 2 if beside(2) >= 3 or (beside(2) and beside(1) == beside(2)) else 1
    return Layout(cell, block, max(1, beside(cell)), labels)


def most_maps(chosen: Layout) -> int:
    """How many layers there is room for in two lines of maps."""
    return min(MOST_MAPS, 2 * chosen.beside)


def spread(first: int, peak: int, layers: Sequence[int], count: int) -> list[int]:
    """So many of the layers, in even steps from where a token is first read up to its peak, both of them included.

    Where there are fewer between them, those before, then those behind.
    """
    low, high = sorted((layers.index(first), layers.index(peak)))
    while high - low + 1 < min(count, len(layers)):
        low, high = (low - 1, high) if low > 0 else (low, high + 1)
    if count == 1:
        return [peak]
    steps = np.linspace(low, high, min(count, len(layers)))
    return [layers[round(step)] for step in steps]


def sign_of(rank: int) -> tuple[str, str]:
    """The sign of a rank, and its colours; of 0, which stands for none, too."""
    if rank == 0:
        return NOWHERE
    return str(rank) if rank < 10 else "+", next(colour for most, colour in COLOURS if rank <= most)


def best_of_blocks(ranks: np.ndarray, block: int) -> np.ndarray:
    """The best rank in each block of so many rows and columns; 0 where there is none. (row, column) -> the same."""
    none = np.iinfo(np.int64).max
    rows, columns = (-(-size // block) for size in ranks.shape)
    padded = np.full((rows * block, columns * block), none)
    padded[: ranks.shape[0], : ranks.shape[1]] = np.where(ranks == 0, none, ranks)
    best = padded.reshape(rows, block, columns, block).min((1, 3))
    return np.where(best == none, 0, best)


def heat_maps(ranks: Mapping[int, np.ndarray], chosen: Layout) -> list[Text]:
    """The lines of the maps. `ranks` are (row, column) by layer, 0 where the token is not among the k best."""
    maps = [_map(f"layer {layer}", of_layer, chosen) for layer, of_layer in ranks.items()]
    lines: list[Text] = []
    for start in range(0, len(maps), chosen.beside):
        if start:
            lines.append(Text())
        beside = zip(*maps[start : start + chosen.beside], strict=True)
        lines += [Text(" " * GAP).join(parts) for parts in beside]
    return lines


def legend(k: int) -> list[Text]:
    """What the signs mean."""
    entries = [((1,), "what the patch decodes to"), ((2, 9), "its rank there")]
    if k > 9:
        entries.append(((10,), f"rank 10 to {k}"))
    line = Text()
    for shown, meaning in entries:
        for i, rank in enumerate(shown):
            line.append("-" if i else "").append(*sign_of(rank))
        line.append(f" {meaning}   ")
    return [line.append(*NOWHERE).append(f" not among the {k} best")]


def _map(title: str, ranks: np.ndarray, chosen: Layout) -> list[Text]:
    """A title, the columns' numbers, and the rows; all of one width."""
    cells = best_of_blocks(ranks, chosen.block)
    width = max(chosen.labels + cells.shape[1] * chosen.cell, TITLE)
    lines = [Text(title, "bold"), _numbers(cells.shape[1], chosen)]
    for row, values in enumerate(cells):
        line = Text().append(f"{row * chosen.block:>{chosen.labels - 1}} ", "dim")
        for rank in values:
            sign, colours = sign_of(int(rank))
            line.append(sign.ljust(chosen.cell), colours)
        lines.append(line)
    for line in lines:
        line.append(" " * (width - len(line)))
    return lines


def _numbers(count: int, chosen: Layout) -> Text:
    """The line of column numbers, as many as have room."""
    widest = len(str((count - 1) * chosen.block)) + 1
    step = next(step for step in STEPS if step * chosen.cell >= widest)
    numbers = "".join(str(column * chosen.block).ljust(step * chosen.cell) for column in range(0, count, step))
    width = count * chosen.cell
    if len(numbers.rstrip()) > width:  # the last one has no room
        numbers = numbers[: (count - 1) // step * step * chosen.cell]
    return Text(" " * chosen.labels + numbers.rstrip(), "dim")
