"""Plots over images: the patches of an answer where they lie in the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke

from vlq.query.image.geometry import patch_box
from vlq.query.image.pictures import pixels
from vlq.query.language.compile import Statement
from vlq.query.plots.answer import Answer
from vlq.query.plots.style import COLOURS, LAYER, SHADES, Plot, figure, inside, shown
from vlq.query.schema import Transform

MOST_IMAGES = 6

ROOM = 13
"""Points that a patch needs to hold a number."""

HALO: list[AbstractPathEffect] = [withStroke(linewidth=2.4, foreground="white")]
"""White around lines and letters: they show on any image."""


@dataclass(frozen=True)
class Picture:
    """An image of the corpus: its size and geometry, and its pixels if it is still where it was."""

    name: str
    size: tuple[int, int]
    transform: Transform
    grid: tuple[int, int]
    pixels: np.ndarray | None  # (height, width, 3)


def pictures(answer: Answer, images: Sequence[int]) -> dict[int, Picture]:
    """The images of these numbers."""
    result = answer.result
    statement = Statement(
        "SELECT image_id, image, uri, sha256, width, height, transform, grid FROM read_parquet($images)\n"
        "WHERE image_id IN (SELECT unnest($wanted))",
        {"wanted": list(images)},
        {"images": None},
    )
    found = {}
    rows = result.corpus.engine.rows(statement, result.snapshot)[1]
    for number, name, uri, sha256, width, height, transform, grid in rows:
        size = width, height
        of_patches = grid["rows"], grid["columns"]
        found[number] = Picture(name, size, Transform(**transform), of_patches, pixels(uri, sha256, size))
    return found


@dataclass(frozen=True)
class Marks:
    """The patches to be drawn of each image, with a number each where there is one, and what the numbers are."""

    patches: Mapping[int, Mapping[int, float | None]]
    name: str = ""
    are_layers: bool = False

    @property
    def numbers(self) -> list[float]:
        return [n for patches in self.patches.values() for n in patches.values() if n is not None]


def marks(answer: Answer, images: Sequence[int]) -> Marks:
    """By patch the layer at which it comes up, or the probability; patches without numbers if there is no such."""
    rows = [row for row in answer.rows if row["image_id"] in images]
    found: dict[int, dict[int, Any]] = {image: {} for image in images}
    if "patch" not in answer.columns:
        for row in rows:
            found[row["image_id"]] |= dict.fromkeys(row.get("patches", ()))
        return Marks(found)
    if answer.value == "layer":
        for row in rows:
            found[row["image_id"]][row["patch"]] = row["layer"]
        return Marks(found, answer.name("layer"), True)
    layers = {row["layer"] for row in rows} if "layer" in answer.columns else set()
    if len(layers) > 1:
        for row in rows:
            patches = found[row["image_id"]]
            patches[row["patch"]] = min(row["layer"], patches.get(row["patch"], row["layer"]))
        return Marks(found, f"lowest {LAYER}", True)
    is_logprob = answer.value == "logprob"
    for row in rows:
        number = row[answer.value] if answer.value is not None else None
        found[row["image_id"]][row["patch"]] = exp(number) if is_logprob and number is not None else number
    return Marks(found, "probability" if is_logprob else answer.name(str(answer.value)))


def over_images(answer: Answer) -> Plot:
    """The first images with the patches of their rows; boxes and centroids where the answer has them."""
    images = answer.images[:MOST_IMAGES]
    marked = marks(answer, images)
    note = f"the first {len(images)} of {len(answer.images):,} images" if len(images) < len(answer.images) else ""
    columns = min(3, len(images))
    lines = -(-len(images) // columns)
    side = {1: 5.4, 2: 3.9, 3: 3.0}[columns]
    plot = figure(answer.title, side * columns + 1.0, side * lines + 0.8, note)
    scale = _scale(marked)
    known = pictures(answer, images)
    every = []
    for number, image in enumerate(images):
        axes = plot.add_subplot(lines, columns, number + 1)
        every.append(axes)
        rows = [row for row in answer.rows if row["image_id"] == image]
        _picture(axes, known[image], rows, marked)
        _patches(axes, known[image], marked.patches[image], scale, side if marked.are_layers else 0)
        for row in rows:
            _place(axes, known[image], row)
    if scale is not None:
        found = sorted({*marked.numbers})
        ticks = found[:: -(-len(found) // 12)] if marked.are_layers else None
        plot.colorbar(scale, ax=every, label=marked.name, shrink=0.8, ticks=ticks)
    return plot


def _scale(marked: Marks) -> ScalarMappable | None:
    """What colour a number has; None if all are the same."""
    numbers = marked.numbers
    if len({*numbers}) < 2:
        return None
    low, high = min(numbers), max(numbers)
    norm = BoundaryNorm(np.arange(low - 0.5, high + 1), 256) if marked.are_layers else Normalize(low, high)
    return ScalarMappable(norm, colormaps[SHADES])


def _picture(axes: Axes, picture: Picture, rows: Sequence[Mapping[str, Any]], marked: Marks) -> None:
    width, height = picture.size
    if picture.pixels is not None:
        axes.imshow(picture.pixels, extent=(0, width, height, 0))
    else:
        axes.add_patch(Rectangle((0, 0), width, height, facecolor="#EEEEEE", edgecolor="#DDDDDD", hatch="//"))
        axes.text(width / 2, height * 0.97, "image not found", ha="center", va="bottom", size=8, path_effects=HALO)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    layers = {row["layer"] for row in rows if "layer" in row}
    named = len(layers) == 1 and (not marked.are_layers or len({*marked.numbers}) == 1)
    axes.set_title(shown(picture.name, 30) + (f", layer {layers.pop()}" if named else ""), size=9)


def _patches(
    axes: Axes, picture: Picture, numbers: Mapping[int, float | None], scale: ScalarMappable | None, side: float
) -> None:
    """Patches in the colours of their numbers; with these in them if they have room on axes of so many inches."""
    boxes = {patch: patch_box(picture.transform, picture.size, picture.grid, patch) for patch in sorted(numbers)}
    # What shows the padding alone is nowhere in the image.
    boxes = {patch: box for patch, box in boxes.items() if box[0] < box[2] and box[1] < box[3]}
    corners = [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in boxes.values()]
    colours: Any = COLOURS[1]
    if scale is not None and corners:
        colours = scale.to_rgba(np.array([numbers[patch] for patch in boxes], float))
    for look in (
        {"facecolors": colours, "alpha": 0.45, "linewidths": 0},
        {"facecolors": "none", "edgecolors": "white", "linewidths": 2.6},
        {"facecolors": "none", "edgecolors": colours, "linewidths": 1.3},
    ):
        axes.add_collection(PolyCollection(corners, **look), autolim=False)
    for patch, (x0, y0, x1, y1) in boxes.items():
        room = (x1 - x0) / max(picture.size) * side * 72
        if numbers[patch] is not None and room >= ROOM:
            inside(axes, (x0 + x1) / 2, (y0 + y1) / 2, f"{numbers[patch]:g}", size=min(11, room / 2), path_effects=HALO)


def _place(axes: Axes, picture: Picture, row: Mapping[str, Any]) -> None:
    """The box around an answer's patches and their centroid, as locate has them."""
    if "patch" in row or row.get("box") is None:
        return
    x0, y0, x1, y1 = row["box"]
    around = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="black", linestyle="--", gid="box")
    around.set_path_effects(HALO)
    axes.add_patch(around)
    if "row" in row and "col" in row:
        transform, (rows, columns) = picture.transform, picture.grid
        x = ((row["col"] + 0.5) * transform.width / columns - transform.offset_x) / transform.scale_x
        y = ((row["row"] + 0.5) * transform.height / rows - transform.offset_y) / transform.scale_y
        axes.plot([x], [y], "x", color="black", markersize=8, markeredgewidth=2, path_effects=HALO)
