"""How plots look: sizes, colours and marks, and texts that the fonts can show."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LAYER = "layer (0 = embedding)"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
"""Okabe and Ito's, which colour-blind people can tell apart; what they tell apart differs in its mark too."""

MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")

SHADES = "viridis"
"""The colours of a scale: they differ in lightness, so that they are in order for everybody and in print."""

FAINT = "#B5B5B5"
"""What is missing."""

FALLBACKS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "PingFang SC",
    "Microsoft YaHei",
    "Hiragino Sans",
)
"""Fonts that have more characters, used where they are installed."""

LINES = 4
"""Lines of a title."""


class Plot(Figure):
    """A figure that a notebook shows by itself, without pyplot and what it keeps."""

    def _repr_png_(self) -> bytes:
        return written(self, "png")


def fonts() -> list[str]:
    known = {entry.name for entry in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FALLBACKS if name in known)]


def styled() -> Any:
    """The context in which plots are drawn and written: as they should look, and the same bytes every time."""
    return rc_context(
        {
            "font.family": fonts(),
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "grid.color": "#E0E0E0",
            "hatch.linewidth": 0.6,
            "legend.frameon": False,
            "svg.hashsalt": "vlq",
            # A token may hold dollar signs, and is no formula.
            "text.parse_math": False,
        }
    )


def figure(title: str, width: float = 7.0, height: float = 4.2, note: str = "") -> Plot:
    """An empty figure of so many inches under a title, and under that what is left out."""
    drawn = Plot(figsize=(width, height), layout="constrained")
    lines = textwrap.wrap(shown(title, 1000), int(width * 13))
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1][:-1] + "…"]
    lines += [f"({note})"] if note else []
    drawn.suptitle("\n".join(lines), x=0.01, ha="left", size=10)
    return drawn


def written(drawn: Figure, form: str) -> bytes:
    """The figure as PNG or SVG; without a date, so that the same plot is the same file."""
    sink = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else {"Software": None}
    with styled():
        drawn.savefig(sink, format=form, dpi=150, metadata=metadata)
    return sink.getvalue()


@cache
def _characters() -> frozenset[int]:
    found: set[int] = set()
    for name in fonts():
        found |= font_manager.get_font(font_manager.findfont(name)).get_charmap().keys()
    return frozenset(found)


def shown(text: object, most: int = 32) -> str:
    """A text without characters that would disturb or that no font has; of a long one, its beginning and its end."""
    clean = "".join(c if c.isprintable() and ord(c) in _characters() else "�" for c in str(text))
    half = most // 2
    return clean if len(clean) <= most else f"{clean[: most - half]}…{clean[len(clean) - half + 1 :]}"


def chip(piece: str | None, token: int, most: int = 14) -> str:
    """A token's piece, its leading space marked as the vocabulary does; its number if there is nothing to show."""
    text = shown(piece, most) if piece is not None else ""
    return text if text.strip("�") and text.strip() else str(token)


def layer_axis(axes: Axes, layers: Sequence[int], never: int | None = None) -> None:
    """The x axis as one of layers, each named if there is room; `never` is the place beside them for what has none."""
    shown_layers = [*layers[:: -(-len(layers) // 17)]]
    names = [str(layer) for layer in shown_layers]
    last = layers[-1] if never is None else never
    axes.set_xticks(
        [*shown_layers, *([] if never is None else [never])], [*names, *([] if never is None else ["never"])]
    )
    axes.set_xlim(layers[0] - 0.6, last + 0.6)
    axes.set_xlabel(LAYER)


def whole_axis(axis: Axis) -> None:
    """Only whole numbers on an axis."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def legend(axes: Axes) -> None:
    """What the lines are, beside the plot, where it hides nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def line(number: int) -> dict[str, Any]:
    """How the n-th of several lines looks: by its colour, its mark and its dashes."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKS[number % len(MARKS)],
        "linestyle": DASHES[number % len(DASHES)],
        "markersize": 5,
        "linewidth": 1.6,
    }


def colour(scale: ScalarMappable, value: float) -> tuple[float, ...]:
    """A number's colour: red, green, blue, opacity."""
    return tuple(float(part) for part in scale.to_rgba(np.array([value]))[0])


def on(scale: ScalarMappable, value: float) -> str:
    """The colour of letters that can be read on a number's colour."""
    red, green, blue, _ = colour(scale, value)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def inside(axes: Axes, x: float, y: float, text: str, **look: Any) -> None:
    """A text in the middle of something; the layout, which would measure each one, need not know of it."""
    axes.text(x, y, text, ha="center", va="center", **look).set_in_layout(False)


def figured(value: float) -> str:
    """A number as it stands beside a mark: 44; 4.5; 0.123."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.3g}"
