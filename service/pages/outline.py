"""What patches have around them, drawn over a picture."""

from __future__ import annotations

from collections.abc import Collection

from vlq.query.image.geometry import Edges


def outline(edges: Edges, grid: tuple[int, int], patches: Collection[int]) -> str:
    """The border of these patches together, as an SVG path in the image's pixels: sides that no other of them has."""
    x, y = edges
    rows, columns = grid
    places = {divmod(patch, columns) for patch in patches if patch < rows * columns}
    parts = []
    for row, column in sorted(places):
        edges_here = x[column], y[row], x[column + 1], y[row + 1]
        left, top, right, bottom = (f"{edge:.2f}".rstrip("0").rstrip(".") for edge in edges_here)
        if (row - 1, column) not in places:
            parts.append(f"M{left} {top}H{right}")
        if (row + 1, column) not in places:
            parts.append(f"M{left} {bottom}H{right}")
        if (row, column - 1) not in places:
            parts.append(f"M{left} {top}V{bottom}")
        if (row, column + 1) not in places:
            parts.append(f"M{right} {top}V{bottom}")
    return "".join(parts)
