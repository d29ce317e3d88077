"""Readings of any token, straight from the arrays: of all logits, or of the residual stream, of which they follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlq.query.cache.arrays import values
from vlq.query.cache.unembed import BLOCK
from vlq.query.schema import spans

if TYPE_CHECKING:
    import pyarrow
    import zarr

    from vlq.query.cache.reader import Snapshot
    from vlq.query.cache.unembed import Unembedding


def asked(images: pyarrow.Table) -> Iterator[tuple[int, list[int]]]:
    """Images of which readings are wanted, and at which layers, from a table of `image_id` and `layers`."""
    return zip(images["image_id"].to_pylist(), images["layers"].to_pylist(), strict=True)


@dataclass(frozen=True)
class Kept:
    """Reads tokens' readings in some images of the arrays of all logits. A chunk is a layer with its vocabulary."""

    site: str
    ids: tuple[int, ...]

    def __call__(self, snapshot: Snapshot, images: pyarrow.Table) -> pyarrow.Table:
        stored, own = snapshot.cache.run.stored_at(self.site)
        columns = Columns()
        for image, layers in asked(images):
            commit = snapshot.commit_of(image)
            row = image - commit.first_image
            logit, lse = (snapshot.cache.array(commit.shard, f"{stored}/{name}") for name in ("logit", "lse"))
            totals = values(lse, row)[:, own]  # (layer, position)
            for layer in layers:
                there = np.isfinite(totals[layer])
                logits = values(logit, (row, layer))[own][there].astype(np.float32)  # (position, vocabulary)
                positions = np.flatnonzero(there)
                for id in self.ids:
                    one = logits[:, id, None]
                    rank = 1 + (logits[:, :id] >= one).sum(1) + (logits[:, id + 1 :] > one).sum(1)
                    columns.add(id, image, layer, positions, rank, one[:, 0] - totals[layer][there])
        return columns.table()


@dataclass(frozen=True)
class Projected:
    """Makes tokens' readings in some images of the residual stream. A chunk is a layer with its states.

    What is stored of a reading holds: of a token among its k best the rank and the log-probability that were read; of
    any other a rank beyond them. Logits that follow of states may be off by the last bit, and in half precision, where
    many are equal, that would be many a rank.
    """

    site: str
    ids: tuple[int, ...]
    patches: tuple[int, ...] | None  # of which readings are wanted; None: of all positions
    ranks: bool  # whether those beyond k are wanted

    def __call__(self, snapshot: Snapshot, images: pyarrow.Table) -> pyarrow.Table:
        columns = Columns()
        ids = np.array(self.ids)
        if not images.num_rows:
            return columns.table()
        unembedding = snapshot.cache.unembedding()
        for cells in self._batches(snapshot, images, unembedding):
            directions, tokens, logprobs, totals = (
                np.concatenate([getattr(cell, name) for cell in cells])
                for name in ("directions", "token", "logprob", "lse")
            )
            logprob = np.minimum(unembedding.logits(directions, self.ids) - totals[:, None], 0)  # (position, id)
            same = tokens[:, :, None] == ids  # (position, k, id)
            stored, place = same.any(1), same.argmax(1)
            logprob = np.where(stored, np.take_along_axis(logprobs, place, 1), logprob)
            rank = np.where(stored, place + 1, 0)
            if self.ranks and not stored.all():
                beyond = ~stored.all(1)
                found = unembedding.ranks(directions[beyond], self.ids)
                rank[beyond] = np.where(stored[beyond], rank[beyond], np.maximum(found, tokens.shape[1] + 1))
            start = 0
            for cell in cells:
                end = start + len(cell.positions)
                for at, id in enumerate(self.ids):
                    part = slice(start, end), at
                    columns.add(id, cell.image, cell.layer, cell.positions, rank[part], logprob[part])
                start = end
        return columns.table()

    def _batches(
        self, snapshot: Snapshot, images: pyarrow.Table, unembedding: Unembedding
    ) -> Iterator[list[StatesOfLayer]]:
        """Some layers of some images at once: the head is read once for all of their states."""
        waiting: list[StatesOfLayer] = []
        of_each = max(unembedding.width, len(self.ids) * snapshot.cache.run.k)  # numbers that a position takes at once
        opened: dict[int, list[zarr.Array[Any]]] = {}  # arrays of a shard
        stored, own = snapshot.cache.run.stored_at(self.site)
        for image, layers in asked(images):
            commit = snapshot.commit_of(image)
            if commit.shard not in opened:
                names = ("residual", "lse", "token", "logprob")
                opened = {commit.shard: [snapshot.cache.array(commit.shard, f"{stored}/{name}") for name in names]}
            row = image - commit.first_image
            for cell in self._cells(image, row, layers, opened[commit.shard], own, unembedding):
                waiting.append(cell)
                if sum(len(cell.positions) for cell in waiting) * of_each >= BLOCK:
                    yield waiting
                    waiting = []
        if waiting:
            yield waiting

    def _cells(
        self,
        image: int,
        row: int,
        layers: Sequence[int],
        arrays: Sequence[zarr.Array[Any]],
        own: slice,
        unembedding: Unembedding,
    ) -> Iterator[StatesOfLayer]:
        """Layers of an image that has a row in a shard's arrays."""
        residual, *others = arrays
        totals, tokens, logprobs = (values(array, row)[:, own] for array in others)  # (layer, position)
        wanted = np.isfinite(totals)
        if self.patches is not None:
            wanted &= np.isin(np.arange(wanted.shape[1]), self.patches)
        read = [layer for layer in layers if wanted[layer].any()]
        most = max(1, BLOCK // (residual.shape[2] * residual.shape[3]))  # layers at once
        for first, last in spans(read):
            for low in range(first, last + 1, most):
                states = values(residual, (row, slice(low, min(low + most, last + 1)), own))
                for layer, of_layer in enumerate(states, low):
                    there = wanted[layer]
                    yield StatesOfLayer(
                        image,
                        layer,
                        np.flatnonzero(there),
                        unembedding.directions(layer, of_layer[there]),
                        tokens[layer][there],
                        logprobs[layer][there],
                        totals[layer][there],
                    )


@dataclass(frozen=True)
class StatesOfLayer:
    """The readings of an image's layer, and what its logits are made of."""

    image: int
    layer: int
    positions: np.ndarray  # (position,)
    directions: np.ndarray  # (position, d)
    token: np.ndarray  # (position, k)
    logprob: np.ndarray  # (position, k)
    lse: np.ndarray  # (position,)


NUMBERS = {
    "token": "uint32",
    "image": "uint32",
    "layer": "uint16",
    "position": "uint16",
    "rank": "uint32",
    "logprob": "float32",
}
"""The columns, as in an index table of tracked tokens."""


class Columns:
    """Readings, which become a table; ranks that are not known are null in it."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0, kind)] for name, kind in NUMBERS.items()}

    def add(
        self, token: int, image: int, layer: int, positions: np.ndarray, rank: np.ndarray, logprob: np.ndarray
    ) -> None:
        """A token's readings in an image's layer, each (position,). A rank of 0 is not known."""
        found = (token, image, layer, positions, rank, logprob)
        for (name, kind), part in zip(NUMBERS.items(), found, strict=True):
            self._parts[name].append(np.broadcast_to(np.asarray(part, kind), positions.shape))

    def table(self) -> pyarrow.Table:
        import pyarrow as pa

        joined = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        rank = pa.array(joined["rank"], mask=joined["rank"] == 0)
        return pa.table({**joined, "rank": rank})
