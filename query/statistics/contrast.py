"""Two kinds of patches of the same images held against each other: which tokens more of the ones read, layer by layer.

Patches of one image are alike, so an image counts once, however many patches it has, and it is images that chance is
looked for in. Of image i let c(i, l) patches have the token still before them at layer l, c(i, l, v) of them reading v;
let o(i) be others, o(i, l, v) of them reading v; and let I(l) be the images that have both at layer l. Then

    share(l, v)      = mean over i in I(l) of c(i, l, v) / c(i, l)
    others(l, v)     = mean over i in I(l) of o(i, l, v) / o(i)
    difference(l, v) = share(l, v) - others(l, v)

and the difference has the interval that every figure has: see `bootstrap`.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from propcache.api import cached_property

from vlq.query.cache.cells import read_by
from vlq.query.schema import Run
from vlq.query.statistics.bootstrap import RESAMPLES, SEED, ends

AT_ONCE = 2**23
"""Differences, of images and tokens, that are held at once."""

THREADS = 2
"""Layers that are added up at once: of many images most of that is sorting, in which NumPy lets go of Python's lock."""

MANY = 1024
"""So many images take longer to sort than threads to take turns."""

DECIMALS = 12
"""Of shares: so that equal ones are equal, in whichever order they were added up."""

SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("token", pa.uint32()),
        ("images", pa.int64()),  # in so many, patches that have the other token before them read this one
        ("patches", pa.int64()),  # so many of them do
        ("share", pa.float64()),
        ("others", pa.float64()),
        ("difference", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("compared", pa.int64()),  # images in I(l)
    ]
)


class Sums:
    """Of all images: how many, how many patches, and the sums of their shares. Arrays (layer, token), where layers are
    those that were read."""

    def __init__(self, layers: int, vocabulary: int) -> None:
        self.images, self.patches = np.zeros((2, layers, vocabulary), np.int64)
        self.share, self.others = np.zeros((2, layers, vocabulary))
        self.compared = np.zeros(layers, np.int64)  # (layer,)

    def chosen(self, at: int, min_images: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The tokens with the largest differences at a layer, of equal ones the lower ids; their (figure, token)."""
        enough = np.flatnonzero(self.images[at] >= min_images)
        compared = max(self.compared[at], 1)
        share, others = (sums[at, enough] / compared for sums in (self.share, self.others))
        # Of shares that are rounded already, equal differences may differ in the last place.
        difference = np.round(share - others, DECIMALS)
        share, others = np.round(share, DECIMALS), np.round(others, DECIMALS)
        best = np.argsort(-difference, kind="stable")[:count]
        return enough[best], np.stack([share, others, difference])[:, best]


@dataclass(frozen=True)
class Contrast:
    """What is held against each other, in images that each have some of both.

    `parts` gives part by part, as often as it is iterated, which of the images it holds, and the ids that their patches
    read at rank 1 (image, layer, patch): `cells.Cells`. `before` (image, patch) is how many layers come before a patch
    reads the token, 0 for one that does not come to; `others` (image, patch) are those that it is held against.
    """

    parts: Iterable[tuple[slice, np.ndarray]]
    before: np.ndarray
    others: np.ndarray
    run: Run

    def table(self, min_images: int, per_layer: int) -> pa.Table:
        """SCHEMA, by layer: at most `per_layer` tokens of each, the largest difference first."""
        sums = self.sums()
        found = [sums.chosen(at, min_images, per_layer) for at in range(len(self.layers))]
        tokens = [token for token, _ in found]
        at = np.repeat(np.arange(len(tokens)), [len(token) for token in tokens])
        token = np.concatenate([np.zeros(0, int), *tokens])
        figures = np.concatenate([np.zeros((3, 0)), *(figures for _, figures in found)], axis=1)
        counts = sums.images[at, token], sums.patches[at, token]
        layer = np.array(self.layers, int)[at]
        columns = (layer, token, *counts, *figures, *self.intervals(tokens), sums.compared[at])
        return pa.table([pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)], SCHEMA)

    @cached_property
    def layers(self) -> list[int]:
        """Those that were read before any patch reads the token."""
        return [layer for layer in self.run.read_layers if layer < self.before.max(initial=0)]

    def sums(self) -> Sums:
        sums = Sums(len(self.layers), self.run.vocabulary_size)
        with ThreadPoolExecutor(THREADS) as threads:
            for part, cells in self.parts:
                at, others = np.flatnonzero(self.others[part]), self.others[part].sum(1)
                add = partial(self._add, sums, part, cells, at, others)
                each = threads.map if len(cells) >= MANY else map
                for _ in each(add, range(len(self.layers))):
                    pass
        return sums

    def _add(self, sums: Sums, part: slice, cells: np.ndarray, at: np.ndarray, others: np.ndarray, number: int) -> None:
        """Add the sums of a part's images at one of the layers.

        Of what they are held against `at` are the cells, flat, and `others` how many each image has.
        """
        vocabulary, layer = self.run.vocabulary_size, self.layers[number]
        coming, ids = self.before[part] > layer, np.ascontiguousarray(cells[:, layer])
        in_image = coming.sum(1)
        image, token, count = read_by(ids, coming, vocabulary)
        sums.images[number] += np.bincount(token, minlength=vocabulary)
        np.add.at(sums.patches[number], token, count)
        sums.share[number] += np.bincount(token, count / in_image[image], vocabulary)
        both = in_image > 0
        weight = np.repeat(both / others, others)  # of one of the others: its share of its image
        sums.others[number] += np.bincount(np.take(ids, at), weight, vocabulary)
        sums.compared[number] += both.sum()

    def intervals(self, chosen: list[np.ndarray]) -> np.ndarray:
        """(end, token): both ends of the differences' intervals, of the chosen tokens of one layer after the other."""
        drawn = resamples(len(self.before))
        layers, tokens = len(chosen), [len(tokens) for tokens in chosen]
        totals = np.zeros((RESAMPLES, layers + sum(tokens)))
        step = max(1, AT_ONCE // max(1, totals.shape[1]))
        for part, cells in self.parts:
            for start in range(0, len(cells), step):
                images = slice(part.start + start, min(part.start + start + step, part.stop))
                differences = self._differences(images, cells[start : start + step], chosen)
                add_product(totals, drawn[:, images], differences)
        compared, sums = np.repeat(totals[:, :layers], tokens, axis=1), totals[:, layers:]
        with np.errstate(invalid="ignore"):  # in a resample without an image that is compared at the layer it is 0 / 0
            differences = sums / compared
        found: np.ndarray = np.round(ends(differences.T), DECIMALS)
        return found

    def _differences(self, images: slice, cells: np.ndarray, chosen: list[np.ndarray]) -> np.ndarray:
        """(image, column): for each layer whether the image is compared, then each chosen token's difference, or 0."""
        others = self.others[images]
        of_others, (count, width) = others.sum(1), others.shape
        compared, differences = [], []
        for layer, tokens in zip(self.layers, chosen, strict=True):
            coming = self.before[images] > layer
            in_image = coming.sum(1)
            column = np.full(self.run.vocabulary_size, -1, np.int32)
            column[tokens] = np.arange(len(tokens))
            # No id is beyond the vocabulary; such a cell is neither coming nor one of the others.
            columns = np.take(column, cells[:, layer], mode="clip").reshape(-1)
            cell = np.flatnonzero(columns >= 0)
            place = cell // width * len(tokens) + columns[cell]
            shares = []
            for held, patches in ((coming, in_image), (others, of_others)):
                there = np.take(place, np.flatnonzero(np.take(held, cell)))
                found = np.bincount(there, minlength=count * len(tokens)).reshape(count, -1)
                shares.append(found / np.maximum(patches, 1)[:, None])
            compared.append((in_image > 0)[:, None])
            differences.append((shares[0] - shares[1]) * compared[-1])
        return np.concatenate([np.zeros((count, 0)), *compared, *differences], axis=1)


def resamples(count: int) -> np.ndarray:
    """(resample, image): how often each of `count` images is drawn.

    A resample's images are a row of `numpy.random.default_rng(SEED).integers(0, count, (RESAMPLES, count))`.
    """
    rng = np.random.default_rng(SEED)
    drawn = np.empty((RESAMPLES, count), np.uint16)
    for some in np.array_split(drawn, 20):  # views of it
        places = rng.integers(0, count, some.shape) + count * np.arange(len(some))[:, None]
        some[:] = np.bincount(places.reshape(-1), minlength=some.size).reshape(some.shape)
    return drawn


def add_product(totals: np.ndarray, drawn: np.ndarray, differences: np.ndarray) -> None:
    """totals += drawn @ differences: (resample, image) by (image, column).

    In blocks too small for BLAS to start threads for: these cost more than they save here, the more so on a busy
    machine, and the last bits would depend on how many there are.
    """
    side, rows = 64, 50
    stacked, times = totals.reshape(-1, rows, totals.shape[1]), drawn.reshape(-1, rows, drawn.shape[1])
    for image in range(0, len(differences), side):
        block = times[:, :, image : image + side].astype(np.float64)
        for column in range(0, totals.shape[1], side):
            here = slice(column, column + side)
            stacked[:, :, here] += block @ differences[image : image + side, here]
