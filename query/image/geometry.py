"""Where a patch lies in its image."""

from __future__ import annotations

from vlq.query.schema import Transform

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in upright pixels of the original image; x0 == x1 or y0 == y1 if nothing of the image is inside."""


def patch_box(transform: Transform, size: tuple[int, int], grid: tuple[int, int], patch: int) -> Box:
    """What a patch of the grid (rows, columns) shows of an image of a size (width, height).

    Inverts resize, crop and padding. What a patch shows of the padding is clipped away; what a crop cut off is in no
    patch's box.
    """
    rows, columns = grid
    row, column = divmod(patch, columns)
    x0, x1 = _original(column, columns, transform.width, transform.scale_x, transform.offset_x, size[0])
    y0, y1 = _original(row, rows, transform.height, transform.scale_y, transform.offset_y, size[1])
    return x0, y0, x1, y1


Edges = tuple[list[float], list[float]]
"""Where columns of patches begin and the last one ends, in upright pixels of the original image; and rows."""


def patch_edges(transform: Transform, size: tuple[int, int], grid: tuple[int, int]) -> Edges:
    """The edges between a grid's columns and rows, and of the outermost ones."""
    rows, columns = grid
    first_row = [patch_box(transform, size, grid, column) for column in range(columns)]
    first_column = [patch_box(transform, size, grid, row * columns) for row in range(rows)]
    return [first_row[0][0], *(box[2] for box in first_row)], [first_column[0][1], *(box[3] for box in first_column)]


def _original(cell: int, cells: int, length: int, scale: float, offset: float, limit: int) -> tuple[float, float]:
    """Both ends of one cell of a model input's axis, in original pixels between 0 and the limit."""
    start, end = ((edge * length / cells - offset) / scale for edge in (cell, cell + 1))
    return min(max(start, 0.0), limit), min(max(end, 0.0), limit)


# --- the same in SQL, where the image table is there -----------------------------------------------------------

ROWS, COLUMNS = "grid.rows::INTEGER", "grid.columns::INTEGER"
"""How many rows and columns of patches an image has."""

POSITIONS = {"patch": f"{ROWS} * {COLUMNS}", "prompt": "len(prompt_ids)", "answer": "len(answer_ids)"}
"""How many positions an image has, at the sites where images may have different numbers of them (`Run.uneven`)."""

READ = "patches_read"
"""Which of its patches were read, where not all of them were (`Run.patches_column`)."""


def geometries(images: str) -> str:
    """The image table with nothing but its geometry, as `images`: beside it no user's column stands in the way."""
    return f"(SELECT image_id, width, height, transform, grid FROM {images}) AS images"


def grids(images: str) -> str:
    """The same, as `images`, with each number as a column: what `edges` needs.

    A database spends more time on planning long expressions than on calculating them for some hundred patches, the more
    so if they reach into structs.
    """
    numbers = ("width", "height", "scale_x", "scale_y", "offset_x", "offset_y")
    inputs = ", ".join(f"transform.{name} AS input_{name}" for name in numbers)
    return f"""\
(
  SELECT image_id, width, height, {ROWS} AS rows, {COLUMNS} AS columns,
    {inputs}
  FROM {images}
) AS images"""


def edges(row: str, column: str) -> tuple[str, str, str, str]:
    """SQL of x0, y0, x1 and y1 of a patch as `patch_box` gives them, of its place in the grid. Beside are `grids`."""

    def edge(cell: str, cells: str, axis: str, length: str) -> str:
        pixel = f"({cell} * input_{length} / {cells} - input_offset_{axis}) / input_scale_{axis}"
        return f"least(greatest({pixel}, 0), {length})"

    across, down = ("columns", "x", "width"), ("rows", "y", "height")
    return (
        edge(column, *across),
        edge(row, *down),
        edge(f"({column} + 1)", *across),
        edge(f"({row} + 1)", *down),
    )
