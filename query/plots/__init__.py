"""Plots of answers: `.plot()` in Python, `--plot FILE` on the command line. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Callable

from vlq.query.answers.result import Result
from vlq.query.language.bind import Bound
from vlq.query.language.groups import OfGroups
from vlq.query.language.histogram import Histogram
from vlq.query.plots import charts, images, tokens
from vlq.query.plots.answer import Answer
from vlq.query.plots.style import Plot, styled


def draw(result: Result) -> Plot:
    """What suits the answer. Raises BadArgument if it holds nothing that can be drawn."""
    answer = Answer(result)
    with styled():
        return kind(answer)(answer)


def kind(answer: Answer) -> Callable[[Answer], Plot]:
    """What is drawn of an answer: it follows from what there is a row for, and from the columns."""
    keys, table, value = {*answer.keys}, answer.table, answer.value
    if not answer.rows:
        return charts.empty
    if answer.is_selected or answer.relation.holds:
        return charts.numbers
    if isinstance(table, OfGroups):
        if isinstance(table, Histogram):
            return charts.grouped_histogram if table.by else charts.histogram
        return charts.groups
    if isinstance(table, Bound) and table.function.name == "effect" and len(answer.rows) > 1:
        return charts.effect_curve if keys & {"layer", "strength"} else charts.effects
    if {"rank", "token"} <= {*answer.columns} and "rank" in keys:
        return tokens.read
    if "patch" in keys and (value != "layer" or len(answer.images) == 1):
        return images.over_images
    if keys == {"image"} and (len(answer.images) == 1 or value is None) and answer.has_places:
        return images.over_images
    if value == "layer" or "histogram" in answer.columns:
        return charts.layer_bars
    if {"layer", "token"} <= keys:
        return charts.tokens_by_layer if "piece" in answer.columns else charts.lines
    if keys == {"layer"}:
        return charts.panels
    if keys and "image" not in keys and value is not None:
        return charts.groups
    if "layer" in keys and value is not None:
        return charts.by_layer
    return charts.numbers
