"""Sets of patches that are taken from an image: those that were chosen, their parts, and those to hold them against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from vlq.query.image.masks import around, labels

MOST_REGIONS = 4
"""Regions whose combinations are all tried: 15 sets. Of more, each one alone, and each one left out."""


@dataclass(frozen=True)
class PatchSet:
    """Some patches of one image, ascending."""

    name: str  # unique in the image: all, regions 1+3, patch 41, random 0, register, gradient
    patches: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The name's first word."""
        return self.name.partition(" ")[0]


def sets_of(chosen: Sequence[int], grid: tuple[int, int], how: str, rings: int = 0) -> list[PatchSet]:
    """The sets that chosen patches of a grid (rows, columns) make, each with so many rings of neighbours around it.

    All of them together come first. None where nothing is chosen.
    """
    if not len(chosen):
        return []
    parts = {"all": tuple(sorted({*chosen}))}
    if how == "singles" and len(parts["all"]) > 1:
        parts |= {f"patch {patch}": (patch,) for patch in parts["all"]}
    if how == "regions":
        found = regions(chosen, grid)
        count = len(found)
        sizes = range(1, count) if count <= MOST_REGIONS else sorted({1, count - 1})
        for size in sizes:
            for some in combinations(range(count), size):
                name = f"region{'s' if size > 1 else ''} {'+'.join(str(i + 1) for i in some)}"
                parts[name] = tuple(sorted(patch for i in some for patch in found[i]))
    return [PatchSet(name, grown(patches, grid, rings)) for name, patches in parts.items()]


def regions(patches: Sequence[int], grid: tuple[int, int]) -> list[tuple[int, ...]]:
    """Patches that touch by a side taken together, in the order of their first ones: as `locate` counts regions."""
    mask = np.zeros(grid, bool)
    mask.flat[list(patches)] = True
    label, cells = labels(mask[None]), np.flatnonzero(mask)
    return [tuple(cells[label == first].tolist()) for first in np.unique(label)]


def grown(patches: Sequence[int], grid: tuple[int, int], rings: int) -> tuple[int, ...]:
    """Patches with those around them, corners too, so many rings deep."""
    mask = np.zeros(grid, bool)
    mask.flat[list(patches)] = True
    for _ in range(rings):
        mask |= around(mask[None])[0]
    return tuple(np.flatnonzero(mask).tolist())


def random_sets(taken: PatchSet, free: Sequence[int], repeats: int, seed: Sequence[int]) -> list[PatchSet]:
    """As many patches as are taken, drawn from those that are free, or all of these where they are fewer; again and
    again. The seed is of numbers: a study's and the image's."""
    rng = np.random.default_rng(list(seed))
    count = min(len(taken.patches), len(free))
    if not count:
        return []
    drawn = [rng.choice(np.asarray(free), count, replace=False) for _ in range(repeats)]
    return [PatchSet(f"random {i}", tuple(sorted(one.tolist()))) for i, one in enumerate(drawn)]


def registers(norms: ArrayLike) -> tuple[int, ...]:
    """Of patches' embeddings, by their norms (patch,), those far longer than the others: above the mean by more than
    two standard deviations."""
    found = np.asarray(norms, np.float64)
    return tuple(np.flatnonzero(found > found.mean() + 2 * found.std()).tolist())


def highest(scores: ArrayLike, count: int) -> tuple[int, ...]:
    """The patches with the highest scores (patch,), so many; of equal ones the first."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    return tuple(sorted(order[:count].tolist()))
