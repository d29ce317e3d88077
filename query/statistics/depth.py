"""How what positions decode to changes from layer to layer: when they settle on the last layer's token, and what
becomes of what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlq.query.cache.cells import Cells
from vlq.query.image.geometry import COLUMNS, ROWS
from vlq.query.language.compile import Compiler
from vlq.query.statistics.portrait import has_patches

if TYPE_CHECKING:
    from vlq.query.client.local import LocalCorpus

SITES = ("last", "patch")
"""Where layers are looked at: the last prompt token, and image patches."""


def decoded(corpus: LocalCorpus, site: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What a site's positions decode to, a part of the images at a time.

    Gives ids (image, layer, position) and which of the positions there are (image, position). Of layers that were not
    read the ids mean nothing.
    """
    snapshot, run = corpus.cache.snapshot(), corpus.cache.run
    compiler = Compiler()
    patches = f"{ROWS} * {COLUMNS}" if site == "patch" else "1"
    there = has_patches(corpus) if site == "patch" else "error IS NULL"
    sql = f"SELECT image_id, {patches} FROM {compiler.table('images')} WHERE {there} ORDER BY image_id"
    rows = corpus.engine.rows(compiler.ask(sql), snapshot)[1]
    if not rows:
        return
    images, counts = (np.array(column) for column in zip(*rows, strict=True))
    if site == "patch":
        most = int(counts.max())
        for part, cells in Cells(snapshot, images, most):
            # Of a patch that was not read no layer was.
            yield cells, (np.arange(most) < counts[part, None]) & (cells[:, run.read_layers[-1]] != run.no_id)
        return
    compiler = Compiler()
    table = corpus.engine.arrow(
        compiler.ask(f"SELECT image, layer, token FROM {compiler.table('last_top1')}"), snapshot
    )
    ids = np.full((len(images), run.layers, 1), run.no_id, np.int64)
    image, layer, token = (table[name].to_numpy() for name in ("image", "layer", "token"))
    ids[np.searchsorted(images, image), layer, 0] = token
    yield ids, np.ones((len(images), 1), bool)


@dataclass(frozen=True)
class Agreement:
    """Of each layer that was read, at how many of the positions it decodes to what the last of them decodes to."""

    positions: int
    layers: tuple[int, ...]
    agree: tuple[int, ...]  # by layer: positions that decode to the last layer's token
    settled: tuple[int, ...]  # and do so from this layer on

    def first(self, share: float) -> int | None:
        """The first layer at which at least this share of the positions agrees; None if there are no positions."""
        enough = (
            layer for layer, agree in zip(self.layers, self.agree, strict=True) if agree >= share * self.positions
        )
        return next(enough, None) if self.positions else None


def agreement(corpus: LocalCorpus, site: str) -> Agreement:
    """Of a site of SITES. Reads what every position decodes to: some 18 KiB an image of LLaVA's size."""
    layers = list(corpus.cache.run.read_layers)
    agree, settled = np.zeros((2, len(layers)), np.int64)
    positions = 0
    for ids, there in decoded(corpus, site):
        same = (ids[:, layers] == ids[:, layers[-1:]]) & there[:, None]
        agree += same.sum((0, 2))
        settled += np.logical_and.accumulate(same[:, ::-1], axis=1)[:, ::-1].sum((0, 2))
        positions += int(there.sum())
    return Agreement(positions, tuple(layers), tuple(agree.tolist()), tuple(settled.tolist()))


def agreement_of_patches(corpus: LocalCorpus) -> Agreement:
    return agreement(corpus, "patch")


def agreement_of_last(corpus: LocalCorpus) -> Agreement:
    return agreement(corpus, "last")


@dataclass(frozen=True)
class Change:
    """A token at two layers: how many positions decode to it at each, and in how many images."""

    token: int
    before: int
    after: int
    images_before: int
    images_after: int

    @property
    def gained(self) -> int:
        return self.after - self.before


@dataclass(frozen=True)
class Flow:
    """Positions that decode to one token at a layer and to another, or the same, at a later one."""

    source: int
    target: int
    positions: int
    images: int


@dataclass(frozen=True)
class Changes:
    """What is between two layers."""

    positions: int
    kept: int  # positions that decode to the same token at both
    tokens: tuple[Change, ...]  # those whose positions change, the largest change first
    flows: tuple[Flow, ...]  # from one token to another, the most frequent first


def changes(corpus: LocalCorpus, site: str, before: int, after: int) -> Changes:
    """What positions decode to at one layer and at another. Both must have been read."""
    size = corpus.cache.run.vocabulary_size
    counts, images = np.zeros((2, 2, size), np.int64)  # (layer, token)
    flows: dict[int, tuple[int, int]] = {}
    positions = kept = 0
    for ids, there in decoded(corpus, site):
        image, _ = np.nonzero(there)
        pair = ids[:, [before, after]].astype(np.int64).transpose(0, 2, 1)[there]  # (position, layer)
        positions += len(pair)
        kept += int((pair[:, 0] == pair[:, 1]).sum())
        for at in range(2):
            counts[at] += np.bincount(pair[:, at], minlength=size)
            images[at] += np.bincount(np.unique(image * size + pair[:, at]) % size, minlength=size)
        key = pair[:, 0] * size + pair[:, 1]
        found, place, number = np.unique(key, return_inverse=True, return_counts=True)
        in_images = np.bincount(np.unique(place + len(found) * image) % len(found), minlength=len(found))
        for one, count, some in zip(found.tolist(), number.tolist(), in_images.tolist(), strict=True):
            known = flows.get(one, (0, 0))
            flows[one] = known[0] + count, known[1] + some
    moved = np.flatnonzero(counts[0] != counts[1])
    tokens = [Change(id, *counts[:, id].tolist(), *images[:, id].tolist()) for id in moved.tolist()]
    ways = [Flow(*divmod(key, size), *numbers) for key, numbers in flows.items() if key // size != key % size]
    return Changes(
        positions,
        kept,
        tuple(sorted(tokens, key=lambda one: (-abs(one.gained), one.token))),
        tuple(sorted(ways, key=lambda one: (-one.positions, one.source, one.target))),
    )
