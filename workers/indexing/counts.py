"""How often each token is what a position decodes to, layer by layer: the index table COUNTS, from the arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa

from vlq.query.cache.reader import Cache
from vlq.query.schema import Commit
from vlq.workers.indexing.postings import changes

ROWS = pa.schema(
    [
        ("site", pa.string()),
        ("layer", pa.uint16()),
        ("token", pa.uint32()),
        ("positions", pa.uint64()),
        ("images", pa.uint32()),
        ("leads", pa.uint32()),
    ]
)


def counts(cache: Cache, commits: Sequence[Commit], progress: Callable[[int, int], None]) -> pa.Table:
    """The rows of the index table COUNTS for the images of these shards. Raises CorruptCache."""
    run = cache.run
    tables = [ROWS.empty_table()]
    # The last position of a prompt is a site by itself: the array of both is read once.
    arrays = [(stored, [*sites]) for stored, sites in groupby(run.positions, lambda site: run.stored_at(site)[0])]
    for at, (stored, sites) in enumerate(arrays):
        counted = {site: Counted(run.layers, run.vocabulary_size) for site in sites}
        for done, commit in enumerate(commits):
            ids = cache.values(commit, f"{stored}/top1")
            for site in sites:
                counted[site].add(ids[:, :, run.stored_at(site)[1]], run.no_id)
            progress(at * len(commits) + done + 1, len(arrays) * len(commits))
        tables += [counted[site].rows(site) for site in sites]
    return pa.concat_tables(tables).combine_chunks()


class Counted:
    """The counts of one site: of each (layer, token), flat; and how many images read each token at any layer."""

    def __init__(self, layers: int, width: int) -> None:
        self._layers = layers
        self._width = width
        self._positions = np.zeros(layers * width, np.uint64)
        self._images = np.zeros(layers * width, np.uint32)
        self._leads = np.zeros(layers * width, np.uint32)
        self._anywhere = np.zeros(width, np.uint32)

    def add(self, ids: np.ndarray, none: int) -> None:
        """Count what several images decode to, (image, layer, position); `none` where nothing was read."""
        cells = np.sort(ids.reshape(-1, ids.shape[-1]))
        is_new = np.ones(cells.shape, bool)
        is_new[:, 1:] = cells[:, 1:] != cells[:, :-1]
        starts = np.flatnonzero(is_new)
        token = cells.reshape(-1)[starts].astype(np.int64)
        n = np.diff(starts, append=cells.size)
        read = token != none
        row, token, n = starts[read] // cells.shape[1], token[read], n[read]
        image, layer = np.divmod(row, self._layers)

        place = layer * self._width + token
        np.add.at(self._positions, place, n.astype(np.uint64))
        np.add.at(self._images, place, np.uint32(1))
        np.add.at(self._anywhere, np.unique(image * self._width + token) % self._width, np.uint32(1))
        if len(row):
            firsts = np.flatnonzero(changes(row))
            last = self._width - 1  # no id is above it
            best = np.maximum.reduceat(n * self._width + (last - token), firsts)  # of equal ones the lower id
            leader = last - best % self._width
            np.add.at(self._leads, layer[firsts] * self._width + leader, np.uint32(1))

    def rows(self, site: str) -> pa.Table:
        """By layer and token, those of any layer behind the others."""
        at = np.flatnonzero(self._positions)
        layer, token = np.divmod(at, self._width)
        anywhere = np.flatnonzero(self._anywhere)
        everywhere = self._positions.reshape(self._layers, self._width).sum(0)
        columns = [
            pa.array([site] * (len(at) + len(anywhere)), pa.string()),
            _then_none(layer.astype(np.uint16), len(anywhere)),
            np.concatenate([token, anywhere]).astype(np.uint32),
            np.concatenate([self._positions[at], everywhere[anywhere]]),
            np.concatenate([self._images[at], self._anywhere[anywhere]]),
            _then_none(self._leads[at], len(anywhere)),
        ]
        return pa.table(columns, schema=ROWS)


def _then_none(values: np.ndarray, count: int) -> pa.Array:
    known = pa.array(values)
    return pa.concat_arrays([known, pa.nulls(count, known.type)])
