"""Made-up readings that look like a LLaVA's as far as size and speed go.

An image is a map of regions, each with a topic: a list of related words, an object's first. In early layers every patch
reads one of a few default tokens; from a region's own layer on, its topic's words rise. A patch also has words of its
own, which it keeps for some layers. All of them have a score in each cell, with noise that neighbouring layers and
patches share; the k best are read. Ids follow Zipf's law; log-probabilities fall along k.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vlq.query.schema import Run, array_specs

RARE, COMMON = 0.05, 0.5
OBJECTS: Mapping[str, float] = {
    "dog": RARE,
    "cat": RARE,
    "rock": RARE,
    "boat": RARE,
    "sky": COMMON,
    "tree": COMMON,
    "person": COMMON,
}
"""Words and the share of images whose map has a region of them."""

BANDS = 5  # of layers, each with default tokens of its own
DEFAULTS, TOPIC, OWN = 24, 24, 16  # candidates of a cell, of each kind
TOPICS = 2000
REGIONS = 12  # of an image


class World:
    """What all images share: default tokens, and topics with their words. Ids of the three kinds are apart."""

    def __init__(self, vocabulary_size: int) -> None:
        rng = np.random.default_rng(0)
        self.vocabulary_size = vocabulary_size
        self.defaults = rng.permutation(np.arange(0, vocabulary_size, 4))[: BANDS * DEFAULTS].reshape(BANDS, DEFAULTS)
        # The words of a topic are distinct, for they differ in the remainder.
        self.topics = 4 * (TOPIC * zipf(rng, vocabulary_size // (4 * TOPIC), (TOPICS, TOPIC)) + np.arange(TOPIC)) + 1
        self.topics[: len(OBJECTS), 0] = self.objects = 4 * (1000 + 7 * np.arange(len(OBJECTS))) + 2

    def pieces(self) -> list[str]:
        """The vocabulary: the objects' words, and names for the rest."""
        pieces = [f"▁word{id}" for id in range(self.vocabulary_size)]
        for word, id in zip(OBJECTS, self.objects, strict=True):
            pieces[id] = f"▁{word}"
        return pieces


def zipf(rng: np.random.Generator, limit: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers below `limit`, the n-th as frequent as 1 / (n + 3)."""
    share = 1 / (np.arange(limit) + 3.0)
    return np.searchsorted(np.cumsum(share / share.sum()), rng.random(shape)).clip(max=limit - 1)


def image_readings(world: World, run: Run, number: int, ends: int | None = None) -> dict[str, np.ndarray]:
    """token, logprob (layer, patch, k), lse, entropy (layer, patch) of one image, from its number alone.

    Images from the number `ends` on show no object of the first kind.
    """
    rng = np.random.default_rng([1, number])
    rows, columns = run.grid
    patches, layers = rows * columns, run.layers
    topic, rises = regions(world, run, rng, first=0 if ends is None or number < ends else 1)  # (patch,), (patch,)

    depth = np.arange(layers)[:, None]  # (layer, 1)
    band = np.minimum(depth[:, 0] * BANDS // layers, BANDS - 1)
    own = own_words(world, rng, layers, patches)  # (layer, patch, OWN)
    tokens = np.concatenate(
        [
            np.broadcast_to(world.defaults[band][:, None], (layers, patches, DEFAULTS)),
            np.broadcast_to(world.topics[topic], (layers, patches, TOPIC)),
            own,
        ],
        axis=-1,
    )
    risen = 1 / (1 + np.exp(rises - depth))  # (layer, patch): 0 before the region's layer, 1 after it
    falling = [np.linspace(high, 0, count, dtype=np.float32) for high, count in ((4, DEFAULTS), (3, TOPIC), (3, OWN))]
    score = np.concatenate(
        [
            (7 - 5 * risen)[..., None] + falling[0],
            (1 + 6 * risen)[..., None] + falling[1],
            np.full((layers, patches, 1), 4.0) + falling[2],
        ],
        axis=-1,
        dtype=np.float32,
    )
    score += noise(rng, layers, rows, columns, score.shape[-1])

    best = np.argpartition(-score, run.k, axis=-1)[..., : run.k]
    best = np.take_along_axis(best, np.argsort(-np.take_along_axis(score, best, -1), -1), -1)
    rest = np.log(world.vocabulary_size) + 0.5  # the many other tokens together
    lse = np.log(np.exp(score).sum(-1) + np.exp(rest)).astype(np.float32)
    logprob = np.take_along_axis(score, best, -1) - lse[..., None]
    entropy = -(np.exp(logprob) * logprob).sum(-1) + rest * np.exp(rest - lse)
    return {"token": np.take_along_axis(tokens, best, -1), "logprob": logprob, "lse": lse, "entropy": entropy}


def regions(world: World, run: Run, rng: np.random.Generator, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Each patch's topic, and the layer at which it rises. Of the objects only those from `first` on are shown."""
    rows, columns = run.grid
    present = np.flatnonzero(rng.random(len(OBJECTS)) < list(OBJECTS.values()))
    present = present[present >= first]
    others = rng.integers(len(OBJECTS), TOPICS, REGIONS - len(present))
    topics = rng.permutation(np.concatenate([present, others]))
    layers = rng.integers(run.layers // 3, run.layers * 3 // 4, REGIONS)
    centre = rng.random((REGIONS, 2)) * (rows, columns)
    cell = np.stack(np.mgrid[:rows, :columns], -1).reshape(-1, 1, 2)
    nearest = ((cell - centre) ** 2).sum(-1).argmin(1)
    return topics[nearest], layers[nearest] + rng.normal(0, 1.5, len(nearest))


def own_words(world: World, rng: np.random.Generator, layers: int, patches: int) -> np.ndarray:
    """(layer, patch, OWN): distinct words, that a patch keeps for four layers."""
    spans = -(-layers // 4)
    words = 4 * (OWN * zipf(rng, world.vocabulary_size // (4 * OWN), (spans, patches, OWN)) + np.arange(OWN)) + 3
    return words.repeat(4, axis=0)[:layers]


def noise(rng: np.random.Generator, layers: int, rows: int, columns: int, candidates: int) -> np.ndarray:
    """(layer, patch, candidate): half of it shared by 3 x 3 patches and 3 layers."""
    coarse = rng.standard_normal((layers // 3 + 1, rows // 3 + 1, columns // 3 + 1, candidates), dtype=np.float32)
    shared = coarse.repeat(3, 0)[:layers].repeat(3, 1)[:, :rows].repeat(3, 2)[:, :, :columns]
    fine = rng.standard_normal(shared.shape, dtype=np.float32)
    return (0.9 * shared + 0.6 * fine).reshape(layers, rows * columns, candidates)


def shard_readings(world: World, run: Run, images: range, ends: int | None = None) -> dict[str, np.ndarray]:
    """All arrays of a shard; `ends` as in `image_readings`."""
    specs = array_specs(run, len(images), run.positions)
    arrays = {spec.name: np.full(spec.shape, spec.fill, spec.dtype) for spec in specs}
    for row, number in enumerate(images):
        found = image_readings(world, run, number, ends)
        for name, values in found.items():
            arrays[f"patch/{name}"][row] = values
        arrays["patch/top1"][row] = found["token"][..., 0]
    sums = arrays["sum/patch"]  # as hard to compress as real ones
    sums[...] = np.random.default_rng([2, images.start]).gamma(0.2, 1.0, sums.shape)
    return arrays
