"""Plots with axes: bars, lines, heat maps, scatter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlq.query.language.against import percent
from vlq.query.language.effects import window_phrase
from vlq.query.mistakes.elsewhere import NOTHING_TO_DRAW
from vlq.query.plots.answer import Answer
from vlq.query.plots.style import (
    COLOURS,
    FAINT,
    LAYER,
    SHADES,
    Plot,
    figure,
    figured,
    inside,
    layer_axis,
    legend,
    line,
    on,
    whole_axis,
)
from vlq.query.statistics.bootstrap import median_interval
from vlq.query.summary import Rows

MOST_BARS = 40
"""So many bars, or rows of a heat map, stand one under the other."""

MOST_LINES = 10
"""So many lines can be told apart; more are a heat map."""

MOST_PANELS = 6

MOST_NUMBERED = 17
"""Cells of a heat map hold their numbers if no more than so many stand side by side."""

ROOM = 90
"""So many small characters fit over the bars of a plot."""


def empty(answer: Answer) -> Plot:
    """Nothing but the sentence."""
    plot = figure(answer.title, height=1.4)
    axes = plot.add_subplot()
    axes.axis("off")
    axes.text(0.5, 0.5, "no rows", ha="center", va="center", color="#7F7F7F")
    return plot


# --- bars ------------------------------------------------------------------------------------------------------


def layer_bars(answer: Answer) -> Plot:
    """How many rows each layer has; those without one, as where a token is never read, stand apart."""
    if "histogram" in answer.columns:  # by='corpus': one row that counts the others
        counts: Counter[Any] = Counter()
        for row in answer.rows:
            counts.update(row["histogram"])
        return _layer_bars(answer, counts, "images")
    return _layer_bars(answer, Counter(row["layer"] for row in answer.rows), answer.unit)


def histogram(answer: Answer) -> Plot:
    """The rows of .histogram() as bars, of layers or as wide as their bins."""
    column = str(answer.value)
    if answer.keys == ("layer",):
        return _layer_bars(answer, {row["layer"]: row[column] for row in answer.rows}, answer.unit)
    plot = figure(answer.title)
    axes = plot.add_subplot()
    rows = [row for row in answer.rows if row["low"] is not None]
    low, high = (np.array([row[name] for row in rows], float) for name in ("low", "high"))
    counts = [row[column] for row in rows]
    axes.bar(low, counts, high - low, align="edge", color=COLOURS[0], edgecolor="white")
    axes.set_ylabel(answer.unit)
    axes.grid(axis="y")
    whole_axis(axes.yaxis)
    axes.set_xlabel(answer.across)
    return plot


def _layer_bars(answer: Answer, numbers: Mapping[Any, float | None], name: str) -> Plot:
    plot = figure(answer.title)
    axes = plot.add_subplot()
    layers = sorted({*answer.layers, *(layer for layer in numbers if layer is not None)})
    heights = [numbers.get(layer) or 0 for layer in layers]
    bars = axes.bar(layers, [float(height) for height in heights], 0.8, color=COLOURS[0])
    never = layers[-1] + 2 if numbers.get(None) else None
    if never is not None:
        axes.bar_label(
            axes.bar([never], [numbers[None] or 0], 0.8, color="white", edgecolor=FAINT, hatch="////"),
            padding=2,
            size=8,
        )
    labels = [figured(height) if height else "" for height in heights]
    if max(map(len, labels)) * len(labels) <= ROOM:
        axes.bar_label(bars, labels, padding=2, size=8)
    layer_axis(axes, layers, never)
    axes.set_ylabel(name)
    axes.grid(axis="y")
    if all(isinstance(height, int) for height in heights):
        whole_axis(axes.yaxis)
    return plot


def grouped_histogram(answer: Answer) -> Plot:
    """A line for each group."""
    return _series(answer, [key for key in answer.keys if key not in answer.along])


def groups(answer: Answer) -> Plot:
    """Numbers of groups: over layers bars or lines, over patches the grid, of two columns a heat map, else bars."""
    keys = answer.keys
    if answer.by_layer and keys == ("layer",):
        value = str(answer.value)
        return _layer_bars(answer, {row["layer"]: row[value] for row in answer.rows}, answer.name(value))
    if answer.by_layer and "layer" in keys:
        others = [key for key in keys if key != "layer"]
        return _series(answer, others, _ascending(answer.rows, others))
    grid = answer.result.corpus.cache.run.grid
    if keys in (("patch",), ("patches",)) and grid is not None and not answer.is_of_images:
        return _grid(answer, *grid)
    if len(keys) == 2:
        return _crossed(answer, *keys)
    return bars(answer)


def bars(answer: Answer) -> Plot:
    """A bar for each row, one under the other, as names need room; the first ones if there are many."""
    rows, value = answer.rows[:MOST_BARS], str(answer.value)
    note = f"the first {len(rows)} of {len(answer.rows):,}" if len(rows) < len(answer.rows) else ""
    plot = figure(answer.title, height=1.4 + 0.24 * len(rows), note=note)
    axes = plot.add_subplot()
    numbers = [row[value] for row in rows]
    drawn = axes.barh(range(len(rows)), [float(n or 0) for n in numbers], 0.75, color=COLOURS[0])
    axes.bar_label(drawn, ["–" if n is None else figured(n) for n in numbers], padding=3, size=8)
    axes.set_yticks(range(len(rows)), [answer.label(row, answer.keys) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.1)
    if all(n is None or n >= 0 for n in numbers):
        axes.set_xlim(left=0, right=None if any(numbers) else 1)
    if all(isinstance(n, int) for n in numbers):
        whole_axis(axes.xaxis)
    axes.set_xlabel(answer.name(value))
    axes.grid(axis="x")
    return plot


# --- lines -----------------------------------------------------------------------------------------------------


def lines(answer: Answer) -> Plot:
    """A line over layers for each token."""
    return _series(answer, ["token"])


@dataclass
class Series:
    """One of several rows of numbers: what it is called, and its numbers over layers or bins."""

    label: str
    numbers: dict[float, Any] = field(default_factory=dict)


def _ascending(rows: Rows, keys: Sequence[str]) -> Rows:
    """Rows of groups in the order of some of their keys, which they have only where those before are the same."""
    return sorted(rows, key=lambda row: [_nulls_last(row[key]) for key in keys])


def _nulls_last(value: Any) -> tuple[bool, Any]:
    """What a value is sorted by, null behind all others, in lists too."""
    return value is None, [*map(_nulls_last, value)] if isinstance(value, list) else value


def _read(answer: Answer, keys: Sequence[str], rows: Rows | None = None) -> list[Series]:
    """The rows, the answer's if none are given, parted by some of their keys."""
    found: dict[str, Series] = {}
    for row in answer.rows if rows is None else rows:
        ends = [row[name] for name in answer.along]
        if None not in ends:
            x = sum(ends) / len(ends) if len(ends) > 1 else ends[0]
            # Of two long names the same may be shown, so they are not told apart by that.
            part = found.setdefault(repr([row[key] for key in keys]), Series(answer.label(row, keys)))
            part.numbers[x] = row[str(answer.value)]
    return list(found.values())


def _series(answer: Answer, keys: Sequence[str], rows: Rows | None = None) -> Plot:
    """A line over layers, or bins, for each of the rows' other keys; many are a heat map."""
    found = _read(answer, keys, rows)
    if len(found) > MOST_LINES:
        return _heat_map(answer, found)
    plot = figure(answer.title)
    axes = plot.add_subplot()
    for place, part in enumerate(found):
        # A line ends where there is nothing.
        ends = int(min(part.numbers)), int(max(part.numbers))
        xs = range(ends[0], ends[1] + 1) if answer.by_layer else sorted(part.numbers)
        ys = [np.nan if part.numbers.get(x) is None else part.numbers[x] for x in xs]
        axes.plot(xs, ys, label=part.label, **line(place))
    axes.set_ylabel(answer.name(str(answer.value)))
    axes.grid(axis="y")
    if all(isinstance(y, int) for part in found for y in part.numbers.values()):
        whole_axis(axes.yaxis)
    if answer.by_layer:
        layer_axis(axes, answer.layers)
    else:
        axes.set_xlabel(answer.across)
    if len(found) > 1:
        legend(axes)
    return plot


def panels(answer: Answer) -> Plot:
    """A line over layers for each number, one panel under the other."""
    names = [name for name in answer.numbers if name != "layer"][:MOST_PANELS]
    rows = sorted(answer.rows, key=lambda row: row["layer"])
    plot = figure(answer.title, height=1.4 + 1.5 * len(names))
    for number, name in enumerate(names):
        axes = plot.add_subplot(len(names), 1, number + 1)
        xs = [row["layer"] for row in rows if row[name] is not None]
        axes.plot(xs, [row[name] for row in rows if row[name] is not None], **line(0))
        axes.set_title(answer.name(name), loc="left")
        axes.grid(axis="y")
        layer_axis(axes, answer.layers)
        if number + 1 < len(names):
            axes.set_xlabel("")
    return plot


def by_layer(answer: Answer) -> Plot:
    """At each layer the median of the rows' values, and where the middle half of them lies."""
    value = str(answer.value)
    found: dict[int, list[float]] = {}
    for row in answer.rows:
        if row[value] is not None:
            found.setdefault(row["layer"], []).append(row[value])
    layers = sorted(found)
    low, middle, high = (
        np.array([np.quantile(found[layer], share) for layer in layers]) for share in (0.25, 0.5, 0.75)
    )
    plot = figure(answer.title)
    axes = plot.add_subplot()
    axes.fill_between(layers, low, high, color=COLOURS[5], alpha=0.4, linewidth=0, label="middle half")
    axes.plot(layers, middle, label="median", **line(0))
    axes.set_ylabel(answer.name(value))
    axes.grid(axis="y")
    layer_axis(axes, answer.layers)
    legend(axes)
    return plot


# --- heat maps -------------------------------------------------------------------------------------------------


def tokens_by_layer(answer: Answer) -> Plot:
    """Tokens that are read at a layer, by layer: a token's row stands where it is read first."""
    return _heat_map(answer, _read(answer, ["token"]))


def _heat_map(answer: Answer, found: Sequence[Series]) -> Plot:
    """Rows of numbers over layers, or bins: those with the largest numbers, in the order of where they begin."""

    def largest(part: Series) -> float:
        return max((n for n in part.numbers.values() if n is not None), default=0)

    def begin(part: Series) -> float:
        return min((x for x, n in part.numbers.items() if n), default=np.inf)

    kept = sorted(sorted(found, key=largest, reverse=True)[:MOST_BARS], key=begin)
    every = answer.layers if answer.by_layer else sorted({x for part in found for x in part.numbers})
    note = f"the {len(kept)} strongest of {len(found):,}" if len(kept) < len(found) else ""
    numbers = [[part.numbers.get(x) for x in every] for part in kept]
    return _cells(answer, note, numbers, [part.label for part in kept], [figured(x) for x in every], answer.across)


def _crossed(answer: Answer, down: str, across: str) -> Plot:
    """Two columns' groups held against each other: the first ones of each, if there are many."""
    parts = ((down, answer.rows), (across, _ascending(answer.rows, [across])))
    names = [{repr(row[key]): answer.label(row, [key]) for row in rows} for key, rows in parts]
    numbers = {(repr(row[down]), repr(row[across])): row[str(answer.value)] for row in answer.rows}
    ys, xs = ([*part][:MOST_BARS] for part in names)
    is_part = len(ys) < len(names[0]) or len(xs) < len(names[1])
    note = f"the first {len(ys)} by {len(xs)} of {len(names[0]):,} by {len(names[1]):,}" if is_part else ""
    cells = [[numbers.get((y, x)) for x in xs] for y in ys]
    return _cells(answer, note, cells, [names[0][y] for y in ys], [names[1][x] for x in xs], "")


def _grid(answer: Answer, rows: int, columns: int) -> Plot:
    """The groups of patches where they lie."""
    numbers = {row[answer.keys[0]]: row[str(answer.value)] for row in answer.rows}
    cells = [[numbers.get(y * columns + x) for x in range(columns)] for y in range(rows)]
    return _cells(answer, "", cells, [*map(str, range(rows))], [*map(str, range(columns))], "column", "row")


def _cells(
    answer: Answer,
    note: str,
    numbers: Sequence[Sequence[Any]],
    ys: Sequence[str],
    xs: Sequence[str],
    across: str,
    down: str = "",
) -> Plot:
    """A heat map of numbers (y, x), hatched where there is none."""
    cells = np.array([[np.nan if n is None else n for n in row] for row in numbers], float)
    long_names = not across and max(map(len, xs)) > 4
    height = 1.8 + 0.24 * len(ys) + (1.0 if long_names else 0)
    plot = figure(answer.title, max(7.0, 3.0 + 0.34 * len(xs)), height, note)
    axes = plot.add_subplot()
    axes.patch.set(facecolor="white", hatch="////", edgecolor="#DDDDDD")
    least = min(0.0, float(np.nanmin(cells)))
    image = axes.imshow(np.ma.masked_invalid(cells), cmap=SHADES, aspect="auto", vmin=least, interpolation="nearest")
    step = 1 if long_names or len(xs) <= 2 * MOST_NUMBERED else -(-len(xs) // (2 * MOST_NUMBERED))
    axes.set_xticks(range(0, len(xs), step), xs[::step])
    if long_names:
        axes.tick_params("x", rotation=45)
        for tick in axes.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(ys)), ys)
    axes.set(xlabel=across, ylabel=down)
    axes.spines[:].set_visible(False)
    plot.colorbar(image, ax=axes, label=answer.name(str(answer.value)), shrink=min(1.0, 8 / len(ys)))
    if len(xs) <= MOST_NUMBERED:
        for y, x in np.argwhere(np.isfinite(cells)):
            number = float(cells[y, x])
            text = percent(number) if answer.value == "share" else figured(number)
            inside(axes, x, y, text, size=7, color=on(image, number))
    return plot


# --- other numbers ---------------------------------------------------------------------------------------------


def numbers(answer: Answer) -> Plot:
    """One number as a histogram, two against each other, more as a histogram each."""
    names = answer.numbers
    if not answer.is_selected and answer.value is not None:
        names = [answer.value]
    if not names:
        raise NOTHING_TO_DRAW.error()
    if len(names) == 2:
        return _against(answer, *names)
    names = names[:MOST_PANELS]
    plot = figure(answer.title, height=1.4 + 2.4 * len(names))
    for number, name in enumerate(names):
        axes = plot.add_subplot(len(names), 1, number + 1)
        values = np.array([row[name] for row in answer.rows if row[name] is not None], float)
        values = values[np.isfinite(values)]
        axes.hist(values, _edges(values), color=COLOURS[0], edgecolor="white")
        axes.set_ylabel(answer.unit)
        axes.grid(axis="y")
        whole_axis(axes.yaxis)
        axes.set_xlabel(answer.name(name))
        if (values == np.round(values)).all():
            whole_axis(axes.xaxis)
    return plot


def effects(answer: Answer) -> Plot:
    """The effects of the chosen patches as a histogram, beside those of what they are held against as lines."""
    found: dict[str, list[float]] = {}
    for row in answer.rows:
        found.setdefault(row.get("kind", "chosen"), []).append(row["effect"])
        if row.get("random") is not None:
            found.setdefault("random", []).append(row["random"])
    ordered = sorted(found, key=lambda kind: (kind == "random", list(found).index(kind)))
    edges = _edges(np.array([effect for effects in found.values() for effect in effects]))
    plot = figure(answer.title)
    axes = plot.add_subplot()
    for place, kind in enumerate(ordered):
        if place == 0:
            axes.hist(found[kind], edges, color=COLOURS[0], edgecolor="white", label=kind)
        else:
            style = {name: value for name, value in line(place).items() if not name.startswith("mark")}
            axes.stairs(np.histogram(found[kind], edges)[0], edges, label=kind, **style)
    axes.axvline(0, color=FAINT, linestyle=":")
    axes.set_xlabel("effect in nats: how much less probable the word becomes")
    axes.set_ylabel("sets" if "set" in answer.keys else "images")
    axes.grid(axis="y")
    whole_axis(axes.yaxis)
    if len(found) > 1:
        legend(axes)
    return plot


def effect_curve(answer: Answer) -> Plot:
    """By window of layers, or strength, the median effect over the images with its interval, beside that of random
    patches; of states put in the share of the way."""
    by = "layer" if "layer" in answer.keys else "strength"
    value = "share" if "share" in answer.columns else "effect"
    steps: dict[float, list[dict[str, Any]]] = {}
    for row in answer.rows:
        steps.setdefault(row[by], []).append(row)
    xs = sorted(steps)
    plot = figure(answer.title)
    axes = plot.add_subplot()
    place = 0
    for name, label in ((value, "chosen"), ("random", "random")):
        found = [[row[name] for row in steps[x] if row.get(name) is not None] for x in xs]
        if not any(found):
            continue
        ends = [median_interval(some) or [np.nan, np.nan] for some in found]
        axes.fill_between(xs, *np.transpose(ends), color=line(place)["color"], alpha=0.2, linewidth=0)
        axes.plot(xs, [np.median(some) if some else np.nan for some in found], label=label, **line(place))
        place += 1
    axes.axhline(0, color=FAINT, linestyle=":")
    axes.set_ylabel("share of the way to the source" if value == "share" else "effect in nats, median and 95% interval")
    axes.grid(axis="y")
    if by == "strength":
        axes.set_xlabel("strength, in lengths of the states")
    else:
        windows = {row["layer"]: window_phrase((row["layer"], row["last_layer"])) for row in answer.rows}
        step = -(-len(xs) // MOST_NUMBERED)
        axes.set_xticks(xs[::step], [windows[int(x)] for x in xs[::step]])
        axes.set_xlabel(LAYER if all("-" not in window for window in windows.values()) else "layers of the window")
    if place > 1:
        legend(axes)
    return plot


def _edges(values: np.ndarray) -> list[float]:
    """Edges of bins: around each whole number if these are not too many."""
    if not values.size:
        return [0.0, 1.0]
    if (values == np.round(values)).all() and np.ptp(values) < MOST_BARS:
        return [float(edge) for edge in np.arange(values.min() - 0.5, values.max() + 1)]
    bins = min(MOST_BARS, max(5, int(np.sqrt(values.size))))
    return [float(edge) for edge in np.histogram_bin_edges(values, bins)]


def _against(answer: Answer, across: str, up: str) -> Plot:
    """A mark for each pair of numbers, as large as the rows that have it are many; groups by their names."""
    found: dict[tuple[float, float], list[str]] = {}
    for row in answer.rows:
        place = row[across], row[up]
        if None not in place and np.isfinite(np.array(place, float)).all():
            found.setdefault(place, []).append("" if "image" in answer.keys else answer.label(row, answer.keys))
    plot = figure(answer.title, 6.6, 5.4)
    axes = plot.add_subplot()
    places = np.array([*found], float).reshape(-1, 2)
    many = np.array([len(rows) for rows in found.values()])
    sizes = 30 + (500 if len(found) <= MOST_BARS else 60) * (many - 1) / max(1, many.max(initial=1) - 1)
    axes.scatter(places[:, 0], places[:, 1], sizes, color=COLOURS[0], alpha=0.6, linewidths=0)
    if len(found) <= MOST_BARS and (many.max(initial=0) > 1 or "image" not in answer.keys):
        for (place, rows), size in zip(found.items(), sizes, strict=True):
            text = f"{len(rows):,}" if len(rows) > 1 or not rows[0] else rows[0]
            axes.annotate(text, place, (0, 1 + size**0.5 / 2), textcoords="offset points", ha="center", size=8)
    if across.endswith("_1") and up.endswith("_2"):
        axes.axline((0, 0), slope=1, color=FAINT, linestyle=":", label="equal")
        legend(axes)
    for axis, column in ((axes.xaxis, across), (axes.yaxis, up)):
        axis.set_label_text(answer.name(column))
        if all(isinstance(row[column], int) for row in answer.rows):
            whole_axis(axis)
    axes.grid(axis="both")
    return plot
