"""What an answer comes to in a few figures, and how figures are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Rows = list[dict[str, Any]]
Summary = dict[str, Any]


Totals = Mapping[str, Any]
"""Aggregates of rows by name: what a summary is made of where there may be too many rows to look at each."""


def layer_totals_sql(known: str = "true") -> dict[str, str]:
    """SQL of aggregates over an answer's columns, of the rows for which `known` holds.

    `stored` are these rows, `matched` the images that have any, `layers` counts them by layer.
    """
    only = f"FILTER (WHERE {known})"
    return {
        "stored": f"count(*) {only}",
        "matched": f"count(DISTINCT image_id) {only}",
        "layers": f"histogram(layer) {only}",
    }


def layer_totals(rows: Rows) -> dict[str, Any]:
    """The same of rows that are here."""
    layers = Counter(row["layer"] for row in rows)
    return {"stored": len(rows), "matched": len({row["image_id"] for row in rows}), "layers": layers}


def one_layer_each(histogram: Mapping[int, int]) -> Totals:
    """The same, as far as a summary needs it, of images that have one row or none: how many have it at each layer."""
    return {"matched": sum(histogram.values()), "layers": histogram}


def layer_summary(totals: Totals, layers: Iterable[int], images: int) -> Summary:
    """How many of `images` images matched, and over the rows' layers the least, median and greatest one.

    The histogram of the summary has every layer of `layers`. The median of an even number of rows is the mean of the
    middle two.
    """
    histogram = totals["layers"] or {}  # of no rows SQL has none
    counts = {layer: histogram.get(layer, 0) for layer in layers}
    found = [layer for layer, n in counts.items() if n]
    return {
        "images": images,
        "matched": totals["matched"],
        "min": found[0] if found else None,
        "median": median(counts) if found else None,
        "max": found[-1] if found else None,
        "histogram": counts,
    }


def median(histogram: Mapping[int, int]) -> float:
    """The median of what a histogram with ascending keys counts."""
    total = sum(histogram.values())
    low, high = (total - 1) // 2, total // 2
    middle = []
    seen = 0
    for value, n in histogram.items():
        middle += [value for place in (low, high) if seen <= place < seen + n]
        seen += n
    return sum(middle) / 2


def count(n: float, noun: str) -> str:
    """(300, 'image') -> '300 images'; (2.5, 'patch') -> '2.5 patches'."""
    ending = "" if n == 1 else "es" if noun.endswith("ch") else "s"
    return f"{n:,.15g} {noun}{ending}"


def unit(keys: Sequence[str]) -> str:
    """What rows with these keys are called: by an only key, by patches; readings, which patches are of each layer."""
    if keys and keys[-1] in ("patch", "position"):
        return "reading" if "layer" in keys else keys[-1]
    return keys[0] if len(keys) == 1 else "row"


def placed(summary: Summary) -> str:
    """'; 44 have such patches', where `patches=` are of each image; else nothing."""
    return f"; {summary['with_patches']:,} have such patches" if "with_patches" in summary else ""


def each(keys: Iterable[str]) -> str:
    """What there is a row for: ('image', 'patch') -> 'image and patch'."""
    return " and ".join(keys) or "corpus"


def figure(value: float) -> str:
    """7.0 -> '7', 7.5 -> '7.5'."""
    return f"{value:g}"


DIFFERENCES = ("divergence", "rise", "corpus_rise")
"""Columns of what entropies differ by, in nats: of what does not differ, as of one image, what float32 rounds."""

LEAST_SEEN = 0.0005
"""The least that three decimals show."""


def is_difference(column: str) -> bool:
    return column.removesuffix("_a").removesuffix("_b") in DIFFERENCES


def as_seen(column: str, value: Any) -> Any:
    """A row's value as people are shown it: a difference that is too small to be one is none."""
    return 0.0 if isinstance(value, float) and is_difference(column) and abs(value) < LEAST_SEEN else value
