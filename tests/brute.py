"""The language's answers by brute force over the Zarr arrays: what the tests hold the compiled queries against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr


@dataclass
class Site:
    """The readings of one site: ids and log-probabilities (image, layer, position, k), failed images NaN.

    `tracked` has ranks, 0 where nothing is read, and log-probabilities of tracked tokens: (image, layer, position).
    """

    token: np.ndarray
    logprob: np.ndarray
    tracked: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        flat = self.token.reshape(-1)
        self._order = np.argsort(flat, kind="stable")
        self._sorted = flat[self._order].astype(np.int64)  # as ids are, or each search would make it so

    def cells(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Best rank of the set (k + 1 where none is stored) and its summed probability: (image, layer, position).

        Of tracked tokens alone both are what they are.
        """
        *cells, k = self.token.shape
        if {*ids} <= {*self.tracked}:
            ranks = np.stack([self.tracked[id][0] for id in ids]).astype(int)
            logprobs = np.stack([self.tracked[id][1] for id in ids]).astype(np.float64)
            return np.where(ranks[0] > 0, ranks.min(0), 2**31), np.where(ranks[0] > 0, np.exp(logprobs).sum(0), 0)
        rank = np.full(cells, k + 1)
        probability = np.zeros(cells)
        for id in ids:
            start, end = np.searchsorted(self._sorted, [id, id + 1])
            found = self._order[start:end]
            at = np.unravel_index(found // k, cells)
            np.minimum.at(rank, at, found % k + 1)
            np.add.at(probability, at, np.exp(self.logprob.reshape(-1)[found].astype(np.float64)))
        return rank, probability


def read_site(
    cache: Path,
    shards: Sequence[str],
    site: str,
    positions: int | None = None,
    prompts: Sequence[Sequence[int]] | None = None,
    tracked: Sequence[int] = (),
    head: np.ndarray | None = None,
) -> Site:
    """A site's arrays straight from the shards' Zarr groups, given in order. `last` is the last of `prompt`.

    Filled up to so many positions, or those of the shard with most. `prompts` are the images' own, if they have some.
    With a `head` (vocabulary, d) all tokens count as tracked: their logits are products with the states.
    """
    stored = "prompt" if site == "last" else site
    groups = [zarr.open_group(cache / shard, mode="r") for shard in shards]

    def read(name: str) -> np.ndarray:
        arrays: list[Any] = [group[f"{stored}/{name}"] for group in groups]
        most = positions or max(array.shape[2] for array in arrays)
        parts = []
        for array in arrays:
            missing = ((0, 0), (0, 0), (0, most - array.shape[2]), (0, 0))[: array.ndim]
            parts.append(np.pad(np.asarray(array[...]), missing, constant_values=array.fill_value))
        return np.concatenate(parts)

    def own(values: np.ndarray) -> np.ndarray:
        """Of all positions those of the site."""
        if site != "last":
            return values
        ends = [-1] * len(values) if prompts is None else [len(prompt) - 1 for prompt in prompts]
        return values[np.arange(len(values)), :, ends][:, :, None]

    found = {}
    if tracked:
        ranks, logprobs = (own(read(f"tracked_{name}")) for name in ("rank", "logprob"))
        found = {id: (ranks[..., at], logprobs[..., at]) for at, id in enumerate(tracked)}
    token, logprob = own(read("token")), own(read("logprob"))
    if head is not None:
        lse = own(read("lse"))[..., None]
        logits = own(read("residual")).astype(np.float64) @ head.T  # (image, layer, position, vocabulary)
        ranks = np.argsort(np.argsort(-logits, axis=-1, kind="stable"), axis=-1) + 1
        logprobs = logits.astype(np.float32) - lse
        there = ~np.isnan(lse)
        for rank in range(token.shape[-1]):
            places = np.where(there, token[..., rank, None], 0).astype(int)
            np.put_along_axis(logprobs, places, logprob[..., rank, None], -1)
        found = {id: (np.where(there[..., 0], ranks[..., id], 0), logprobs[..., id]) for id in range(len(head))}
    return Site(token, logprob, found)


def picked_layers(
    site: Site,
    ids: Sequence[int],
    pick: str = "first",
    *,
    rank: int = 1,
    min_prob: float | None = None,
    layers: Sequence[int] | None = None,
    patches: np.ndarray | None = None,
    min_patches: int = 1,
    min_run: int = 1,
    by: str = "image",
) -> list[dict[str, Any]]:
    """Rows of first_layer, last_layer or peak_layer by image or by patch, of readings at `patches` (image, position).

    Each has image (its number), layer, positions and the best log-probability.
    """
    best, probability = site.cells(ids)
    hit = best <= rank
    if min_prob is not None:
        hit &= probability >= min_prob
    if patches is not None:
        hit &= patches[:, None, :]
    counted = range(hit.shape[1]) if layers is None else layers
    rows = []
    for image in np.flatnonzero(hit.any((1, 2))):
        for position in np.flatnonzero(hit[image].any(0)) if by == "patch" else [None]:
            at = slice(None) if position is None else [position]
            read = hit[image][:, at]  # (layer, position)
            strongest = np.where(read, probability[image][:, at], 0).max(-1)
            enough = [layer in counted and read[layer].sum() >= min_patches for layer in range(len(read))]
            runs = [layer for layer in range(len(read) - min_run + 1) if all(enough[layer : layer + min_run])]
            if not runs:
                continue
            match pick:
                case "first":
                    layer = runs[0]
                case "last":
                    layer = runs[-1] + min_run - 1
                case _:
                    layer = max(runs, key=lambda layer: (strongest[layer], -layer))
            where = np.flatnonzero(hit[image, layer]) if position is None else np.array([position])
            logprob = np.log(strongest[layer])
            rows.append({"image": int(image), "layer": layer, "positions": where.tolist(), "logprob": logprob})
    return rows
