"""Small charts as SVG in a page: bars, lines, and the cells of a grid.

They are in the colours of the page (charts.css), light or dark. Each says what it shows in words (`title`, `desc`), and
stands beside a table of the same figures, which the page's template makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import floor, log10

from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 170
"""Of a chart, in the units of its view box; a page draws it as wide as there is room."""

LEFT, RIGHT, TOP, BOTTOM = 58, 8, 8, 34
"""Room for the axes' labels."""

Values = Sequence[float | None]


LEGEND = -8
"""Where lines are named: above the rest."""


def bars(values: Values, marks: Sequence[str], title: str, axis: str, unit: str, *, top: float | None = None) -> Markup:
    """A bar for each value, from 0; `marks` are what stands below them. None is drawn as what was not looked at.

    Each bar's group has `data-bar` with its number and `data-mark`, for scripts.
    """
    scale = _Scale(top or max((value for value in values if value is not None), default=0))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(values))
    parts = [scale.axis(unit), _marks(marks, step, axis, at=0.5)]
    for number, (value, mark) in enumerate(zip(values, marks, strict=True)):
        x = LEFT + number * step
        said = f"{axis} {mark}: {'not read' if value is None else f'{_figure(value)} {unit}'}"
        shape = f'<rect class="slot" x="{x:.2f}" y="{TOP}" width="{step:.2f}" height="{HEIGHT - TOP - BOTTOM}"/>'
        if value is None:
            shape += f'<rect class="unread" x="{x:.2f}" y="{TOP}" width="{step:.2f}" height="{HEIGHT - TOP - BOTTOM}"/>'
        elif value > 0:
            y = min(scale.y(value), HEIGHT - BOTTOM - 1.0)  # what is there is seen
            wide = max(step - 1.5, step * 0.6)
            shape += (
                f'<rect class="bar" x="{x + (step - wide) / 2:.2f}" y="{y:.2f}" width="{wide:.2f}" '
                f'height="{HEIGHT - BOTTOM - y:.2f}"/>'
            )
        parts.append(f'<g data-bar="{number}" data-mark="{escape(mark)}"><title>{escape(said)}</title>{shape}</g>')
    return _svg(parts, title, f"{len(values)} bars; the highest is {_highest(values, marks, axis, unit)}.")


def lines(
    series: Sequence[tuple[str, Values]],
    marks: Sequence[str],
    title: str,
    axis: str,
    unit: str,
    top: float | None = None,
) -> Markup:
    """A line for each of a few series over the same places; each has its own dashes and marker beside its colour."""
    every = [value for _, values in series for value in values if value is not None]
    scale = _Scale(top or max(every, default=0))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(marks))
    parts = [scale.axis(unit), _marks(marks, step, axis, at=0.5)]
    said = []
    for number, (name, values) in enumerate(series):
        points = [
            (LEFT + (place + 0.5) * step, scale.y(value), mark, value)
            for place, (value, mark) in enumerate(zip(values, marks, strict=True))
            if value is not None
        ]
        path = " ".join(f"{'M' if place == 0 else 'L'}{x:.2f} {y:.2f}" for place, (x, y, _, _) in enumerate(points))
        dots = "".join(
            f"<g><title>{escape(f'{name}, {axis} {mark}: {_figure(value)} {unit}')}</title>{_dot(number, x, y)}</g>"
            for x, y, mark, value in points
        )
        parts.append(f'<g class="series s{number}"><path class="line" d="{path}"/>{dots}</g>')
        said.append(f"{name}: the highest is {_highest(values, marks, axis, unit)}")
    legend = "".join(
        f'<g class="series s{number}"><path class="line" d="M{LEFT + 8 + 120 * number} {LEGEND}h18"/>'
        f"{_dot(number, LEFT + 17 + 120 * number, LEGEND)}</g>"
        f'<text x="{LEFT + 30 + 120 * number}" y="{LEGEND + 4}">{escape(name)}</text>'
        for number, (name, _) in enumerate(series)
    )
    if len(series) > 1:
        parts.append(f'<g class="legend">{legend}</g>')
    return _svg(parts, title, "; ".join(said) + ".", view=f"0 {LEGEND - 8} {WIDTH} {HEIGHT - LEGEND + 8}")


def cells(rows: int, columns: int, shares: Values, said: Sequence[str], title: str, desc: str) -> Markup:
    """A grid's cells, row by row, the stronger the colour the larger the share. None is what is not there."""
    most = max((share for share in shares if share is not None), default=0) or 1
    parts = []
    for number, (share, text) in enumerate(zip(shares, said, strict=True)):
        row, column = divmod(number, columns)
        place = f'x="{column}" y="{row}" width="1" height="1"'
        if share is None:
            shape = f'<rect class="unread" {place}/>'
        else:
            shape = f'<rect class="cell" {place}/>'
            if share > 0:
                shape += f'<rect class="share" {place} fill-opacity="{max(0.04, share / most):.3f}"/>'
        parts.append(f'<g data-cell="{number}"><title>{escape(text)}</title>{shape}</g>')
    return _svg(parts, title, desc, view=f"0 0 {columns} {rows}", kind="grid")


def _svg(parts: Sequence[str], title: str, desc: str, view: str = f"0 0 {WIDTH} {HEIGHT}", kind: str = "") -> Markup:
    return Markup(
        f'<svg class="chart {kind}" viewBox="{view}" role="img">'
        f"<title>{escape(title)}</title><desc>{escape(desc)}</desc>{''.join(parts)}</svg>"
    )


class _Scale:
    """From 0 to a round number at or above the largest value."""

    def __init__(self, most: float) -> None:
        self.step = _round_step(most)
        self.top = self.step
        while self.top < most * (1 - 1e-9):
            self.top += self.step

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.top

    def axis(self, unit: str) -> str:
        ticks, value = [], 0.0
        while value <= self.top * (1 + 1e-9):
            y = self.y(value)
            ticks.append(
                f'<path class="tick" d="M{LEFT} {y:.2f}H{WIDTH - RIGHT}"/>'
                f'<text class="end" x="{LEFT - 5}" y="{y + 4:.2f}">{_figure(value)}</text>'
            )
            value += self.step
        turned = f"translate(10 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"
        label = f'<text class="middle" transform="{turned}">{escape(unit)}</text>'
        return f'<g class="axis">{"".join(ticks)}{label}</g>'


def _round_step(most: float) -> float:
    """1, 2 or 5 times a power of ten: with it four ticks at most reach `most`."""
    if most <= 0:
        return 1.0
    power: float = 10.0 ** floor(log10(most / 4))
    return next(power * times for times in (1, 2, 5, 10, 20) if power * times * 4 >= most * (1 - 1e-9))


def _marks(marks: Sequence[str], step: float, axis: str, at: float) -> str:
    every = max(1, -(-len(marks) // 17))
    texts = "".join(
        f'<text class="middle" x="{LEFT + (number + at) * step:.2f}" y="{HEIGHT - BOTTOM + 14}">{escape(mark)}</text>'
        for number, mark in enumerate(marks)
        if number % every == 0
    )
    middle = (LEFT + WIDTH - RIGHT) / 2
    return f'<g class="axis">{texts}<text class="middle" x="{middle}" y="{HEIGHT - 5}">{escape(axis)}</text></g>'


def _dot(number: int, x: float, y: float) -> str:
    """A series' marker: a circle, a square, a triangle, a diamond."""
    shapes = ("a3 3 0 1 0 .01 0z", "m-3-3h6v6h-6z", "m0-4l4 7h-8z", "m0-4l4 4l-4 4l-4-4z")
    start = f"M{x:.2f} {y:.2f}" if number % 4 else f"M{x:.2f} {y - 3:.2f}"
    return f'<path class="dot" d="{start}{shapes[number % 4]}"/>'


def _highest(values: Values, marks: Sequence[str], axis: str, unit: str) -> str:
    known = [(value, -number) for number, value in enumerate(values) if value is not None]
    if not known:
        return "none"
    value, place = max(known)
    return f"{_figure(value)} {unit} at {axis} {marks[-place]}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"
