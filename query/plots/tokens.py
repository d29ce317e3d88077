"""Tables of tokens: what one image reads, as text."""

from __future__ import annotations

from math import exp

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle

from vlq.query.image.geometry import patch_box
from vlq.query.plots.answer import Answer
from vlq.query.plots.images import pictures
from vlq.query.plots.style import LAYER, SHADES, Plot, chip, colour, figure, inside, on

MOST_TICKS = 17
"""So many layers, or positions, stand by their numbers."""

MOST_RANKS = 10

PROBABILITY = "probability"


def read(answer: Answer) -> Plot:
    """What top() gives: of one position layers by ranks, of one layer the image, else patches by layers."""
    place = next((key for key in ("patch", "position") if key in answer.keys), None)
    places = {row[place] for row in answer.rows} if place else {None}
    layers = {row["layer"] for row in answer.rows}
    if len(places) == 1:
        return _ranks(answer)
    if place == "patch" and len(layers) == 1:
        return _over_image(answer)
    return _probabilities(answer, str(place))


def _ranks(answer: Answer) -> Plot:
    """A table of the tokens of one position: a line for each layer, the best ones first."""
    layers = sorted({row["layer"] for row in answer.rows})
    all_ranks = sorted({row["rank"] for row in answer.rows})
    ranks = all_ranks[:MOST_RANKS]
    note = f"the first {len(ranks)} of {len(all_ranks)} ranks" if len(ranks) < len(all_ranks) else ""
    # The axis' own name takes as much room as four layers.
    plot = figure(answer.title, 2.4 + 1.05 * len(ranks), 1.7 + 0.27 * max(4, len(layers)), note)
    axes = plot.add_subplot()
    scale = _scale()
    for row in answer.rows:
        if row["rank"] in ranks:
            y, x = layers.index(row["layer"]), ranks.index(row["rank"])
            share = exp(row["logprob"])
            axes.add_patch(Rectangle((x - 0.48, y - 0.44), 0.96, 0.88, facecolor=colour(scale, share)))
            axes.text(
                x, y, chip(row["piece"], row["token"], 12), ha="center", va="center", size=8, color=on(scale, share)
            )
    axes.set(xlim=(-0.5, len(ranks) - 0.5), ylim=(len(layers) - 0.5, -0.5), xlabel="rank", ylabel=LAYER)
    axes.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
    axes.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    plot.colorbar(scale, ax=axes, label=PROBABILITY, shrink=min(1.0, 8 / len(layers)))
    return plot


def _over_image(answer: Answer) -> Plot:
    """The best token of each patch, over the image."""
    (image,) = answer.images
    picture = pictures(answer, [image])[image]
    width, height = picture.size
    side = max(6.0, 0.52 * picture.grid[1])
    inch = width / side  # in pixels of the original
    plot = figure(answer.title, side + 1.0, side * height / width + 0.8)
    axes = plot.add_subplot()
    if picture.pixels is not None:
        axes.imshow(picture.pixels, extent=(0, width, height, 0))
    scale = _scale()
    chips, shares = [], []
    for row in answer.rows:
        x0, y0, x1, y1 = patch_box(picture.transform, picture.size, picture.grid, row["patch"])
        if row["rank"] > 1 or x0 == x1 or y0 == y1:
            continue  # what shows the padding alone is nowhere in the image
        x, y, right, down = (x0 + x1) / 2, (y0 + y1) / 2, min(0.46 * (x1 - x0), 0.29 * inch), 0.1 * inch
        chips.append([(x - right, y - down), (x + right, y - down), (x + right, y + down), (x - right, y + down)])
        shares.append(exp(row["logprob"]))
        inside(axes, x, y, chip(row["piece"], row["token"], 8), size=6.5, color=on(scale, shares[-1]))
    colours = scale.to_rgba(np.array(shares))
    axes.add_collection(PolyCollection(chips, facecolors=colours, edgecolors="white", linewidths=0.6), autolim=False)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    plot.colorbar(scale, ax=axes, label=PROBABILITY, shrink=0.8)
    return plot


def _probabilities(answer: Answer, place: str) -> Plot:
    """The probability of each position's best token at each layer: too many to be named."""
    layers = sorted({row["layer"] for row in answer.rows})
    places = sorted({row[place] for row in answer.rows})
    cells = np.full((len(places), len(layers)), np.nan)
    for row in answer.rows:
        if row["rank"] == 1:
            cells[places.index(row[place]), layers.index(row["layer"])] = exp(row["logprob"])
    plot = figure(answer.title, 7.0, 6.0)
    axes = plot.add_subplot()
    drawn = axes.imshow(cells, cmap=SHADES, aspect="auto", vmin=0, vmax=1, interpolation="nearest")
    # Of some layers and some patches only, each stands by its number.
    for ticks, numbers in ((axes.set_xticks, layers), (axes.set_yticks, places)):
        step = -(-len(numbers) // MOST_TICKS)
        ticks(range(0, len(numbers), step), [str(number) for number in numbers[::step]])
    axes.set(xlabel=LAYER, ylabel=place)
    plot.colorbar(drawn, ax=axes, label=f"{PROBABILITY} of the best token")
    return plot


def _scale() -> ScalarMappable:
    return ScalarMappable(Normalize(0, 1), colormaps[SHADES])
