"""How sure a figure is: percentile intervals by resampling images with replacement, the same for every function.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3: draw as many images as there are, with
replacement, and take the figure of that draw, many times; the interval goes from the smallest figure that 2.5% of the
draws do not exceed to the smallest that 97.5% do not. Images are what is drawn, because the patches and layers of one
image are not independent of each other. A draw that has no such figure, as the median of nothing, is left out.

The share of a draw is binomial, so its percentiles are known without drawing. What else there is is drawn, from a fixed
seed: the same answer always has the same intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlq.query.summary import Rows

TAILS = 0.025, 0.975
"""Where an interval of 95% begins and ends."""

RESAMPLES = 1_000
SEED = 0

Interval = list[float] | None
"""Its ends, both inclusive; None where there is no such figure: the share of no images, the median of nothing."""


@dataclass(frozen=True)
class Group:
    """Images by what is found in them: `counts` of them are of each kind; in the others nothing is found."""

    images: int
    counts: np.ndarray  # (kind,)
    found: np.ndarray  # (kind, layer): how many rows an image of the kind has of each layer
    layers: np.ndarray  # (layer,) ascending

    @classmethod
    def by_layer(cls, histogram: Mapping[int, int], images: int) -> Group:
        """Of images that have one row or none: how many have it at each layer."""
        layers = np.array(list(histogram))
        return cls(images, np.array(list(histogram.values())), np.eye(len(layers), dtype=np.int64), layers)

    @classmethod
    def by_rows(cls, rows: Rows, layers: Sequence[int], images: int) -> Group:
        """Of images that may have several rows, each of one of the layers (ascending)."""
        numbers, image = np.unique([row["image_id"] for row in rows], return_inverse=True)
        found = np.zeros((len(numbers), len(layers)), np.int64)
        np.add.at(found, (image, np.searchsorted(layers, [row["layer"] for row in rows])), 1)
        kinds, counts = np.unique(found, axis=0, return_counts=True)
        return cls(images, counts, kinds, np.array(layers))

    @property
    def matched(self) -> int:
        """Images in which something is found."""
        return int(self.counts.sum())

    @property
    def median(self) -> float:
        """The median layer of all rows; NaN without any."""
        return float(medians((self.counts @ self.found)[None], self.layers)[0])


def share(matched: int, images: int) -> dict[str, Any]:
    """`share`, of no images None, and its `share_interval`."""
    return {"share": matched / images if images else None, "share_interval": share_interval(matched, images)}


def share_interval(matched: int, images: int) -> Interval:
    """The interval of a share, as if drawn for ever: of so many images a draw has a binomial number of matched ones.

    A share of 0 or 1 has no width, since no draw finds what is not there.
    """
    if not images:
        return None
    probability = matched / images
    if matched in (0, images):
        return [probability, probability]
    number = np.arange(1, images + 1)
    # ln P(0), and by how much each ln P(n) is above the one before.
    steps = np.log((images - number + 1) / number) + np.log(probability) - np.log1p(-probability)
    below = np.exp(np.cumsum([images * np.log1p(-probability), *steps])).cumsum()  # P(at most n)
    return [float(n) / images for n in np.searchsorted(below, TAILS)]


def share_difference(one: tuple[int, int], other: tuple[int, int]) -> dict[str, Any]:
    """`share`, by how much the first share is larger, and its `share_interval`. A share: (matched, images)."""
    if not (one[1] and other[1]):
        return {"share": None, "share_interval": None}
    generator = np.random.default_rng(SEED)
    drawn = [generator.binomial(images, matched / images, RESAMPLES) / images for matched, images in (one, other)]
    return {"share": one[0] / one[1] - other[0] / other[1], "share_interval": percentiles(drawn[0] - drawn[1])}


def contrast(one: Group, other: Group) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The figures of both groups, and by how much the first one's are larger.

    Of a group: `share`, `share_interval` and `median_interval`, which are the same whatever it is held against. Of the
    difference: these, and `median`.
    """
    sides = (one, other)
    here, there = (drawn_layers(group) for group in sides)
    # Both are drawn alike from the seed: in another order each draw stands beside one that has nothing to do with it.
    apart = here - np.random.default_rng(SEED).permutation(there)
    difference = {
        **share_difference((one.matched, one.images), (other.matched, other.images)),
        "median": one.median - other.median if one.matched and other.matched else None,
        "median_interval": percentiles(apart),
    }
    figures = [
        {**share(group.matched, group.images), "median_interval": percentiles(medians)}
        for group, medians in zip(sides, (here, there), strict=True)
    ]
    return figures[0], figures[1], difference


def drawn_layers(group: Group) -> np.ndarray:
    """(resample,) the median layer of each draw; NaN where there is none.

    Images of one kind are alike, so a draw is how often each kind comes up: multinomial.
    """
    if not group.images:
        return np.full(RESAMPLES, np.nan)
    chances = np.append(group.counts, group.images - group.matched) / group.images
    kinds = np.random.default_rng(SEED).multinomial(group.images, chances, RESAMPLES)  # (resample, kind)
    return medians(kinds[:, :-1] @ group.found, group.layers)


def medians(rows: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """(resample,) the median of rows counted by layer (resample, layer); of an even number the mean of the middle two.

    NaN without rows.
    """
    below = rows.cumsum(1)
    total = below[:, -1:]
    low, high = ((below <= place).sum(1).clip(max=len(layers) - 1) for place in ((total - 1) // 2, total // 2))
    return np.where(total[:, 0] > 0, (layers[low] + layers[high]) / 2, np.nan)


def drawn_medians(values: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    """(resample,) the median of each draw of images that have one number each; NaN of no images.

    The middle two of n uniform numbers tell which of the ordered values are in the middle of a draw, and of a uniform
    draw's order statistics the distribution is known (David and Nagaraja, Order Statistics (2003), section 2.5): the
    k-th is Beta(k, n - k + 1), and what the next one is beyond it, of what is left, Beta(1, n - k).
    """
    ordered, n = np.sort(np.asarray(values, np.float64)), len(values)
    if not n:
        return np.full(RESAMPLES, np.nan)
    k = (n + 1) // 2
    low = generator.beta(k, n - k + 1, RESAMPLES)
    middle = [low] if n % 2 else [low, low + (1 - low) * generator.beta(1, n - k, RESAMPLES)]
    places = [np.minimum((n * place).astype(np.int64), n - 1) for place in middle]
    found: np.ndarray = np.mean([ordered[place] for place in places], axis=0)
    return found


def median_interval(values: Sequence[float]) -> Interval:
    """The interval of the median of images that have one number each."""
    return percentiles(drawn_medians(values, np.random.default_rng(SEED)))


def drawn_means(values: Sequence[float], generator: np.random.Generator) -> np.ndarray:
    """(resample,) the mean of each draw of images that have one number each; NaN of no images."""
    if not values:
        return np.full(RESAMPLES, np.nan)
    numbers, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    found = np.empty(RESAMPLES)
    for some in np.array_split(found, 1 + RESAMPLES * len(numbers) // 2**20):  # views of it
        some[:] = generator.multinomial(len(values), counts / len(values), len(some)) @ numbers / len(values)
    return found


def mean_interval(values: Sequence[float]) -> Interval:
    """The interval of the mean of images that have one number each; of zeros and ones it is a share's."""
    if {*values} <= {0, 1}:
        return share_interval(int(sum(values)), len(values))
    return percentiles(drawn_means(values, np.random.default_rng(SEED)))


def difference(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
    """By how much the median of the first numbers, one an image, is larger: `median` and `median_interval`."""
    generator = np.random.default_rng(SEED)
    drawn = [drawn_medians(values, generator) for values in (one, other)]
    known = bool(one) and bool(other)
    return {
        "median": float(np.median(one) - np.median(other)) if known else None,
        "median_interval": percentiles(drawn[0] - drawn[1]),
    }


def percentiles(figures: np.ndarray) -> Interval:
    """The interval of what was drawn (resample,)."""
    low, high = ends(figures[None])[:, 0]
    return None if np.isnan(low) else [float(low), float(high)]


def ends(figures: np.ndarray) -> np.ndarray:
    """(end, row): both ends of the interval of each row of figures (row, resample); NaN is no figure."""
    ordered = np.sort(figures, axis=1)  # NaN behind all others
    known = np.count_nonzero(~np.isnan(ordered), axis=1)
    # So many figures are a tail's share or just more; as whole numbers, whatever 0.025 is in binary.
    enough = np.array([np.ceil(np.round(known * tail, 9)) for tail in TAILS]).astype(int)
    found: np.ndarray = ordered[np.arange(len(ordered)), np.maximum(enough - 1, 0)]
    return found
