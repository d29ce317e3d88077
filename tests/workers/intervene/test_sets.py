"""Sets of patches: their parts, rings, and what they are held against."""

from __future__ import annotations

import numpy as np
import pytest

from vlq.workers.intervene.sets import PatchSet, grown, highest, random_sets, regions, registers, sets_of


@pytest.mark.parametrize("seed", range(20))
def test_regions_and_rings_by_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = (int(rng.integers(1, 9)), int(rng.integers(1, 9)))
    cells = np.argwhere(np.ones(grid, bool))  # (patch, 2) row and column
    patches = np.flatnonzero(rng.random(len(cells)) < rng.choice([0.2, 0.5, 0.8])).tolist()
    offsets = np.abs(cells[:, None] - cells)
    touching = (offsets.sum(-1) <= 1)[np.ix_(patches, patches)]
    reached = np.linalg.matrix_power(touching.astype(float), max(1, len(patches))) > 0
    expected = {tuple(patches[i] for i in np.flatnonzero(row)) for row in reached}
    assert regions(patches, grid) == sorted(expected)
    for rings in (0, 1, 2):
        near = (offsets.max(-1) <= rings)[patches].any(0) if patches else np.zeros(len(cells), bool)
        assert grown(patches, grid, rings) == tuple(np.flatnonzero(near).tolist())


def test_parts() -> None:
    chosen = [0, 1, 6, 24]  # in 5 x 5: two that touch, one at a corner of these, one far away
    assert [taken.name for taken in sets_of(chosen, (5, 5), "all")] == ["all"]
    assert sets_of([], (5, 5), "regions") == []
    found = {taken.name: taken.patches for taken in sets_of(chosen, (5, 5), "regions")}
    assert found == {"all": (0, 1, 6, 24), "region 1": (0, 1, 6), "region 2": (24,)}
    found = {taken.name: taken.patches for taken in sets_of(chosen, (5, 5), "singles", 1)}
    assert found["patch 24"] == (18, 19, 23, 24)
    three = {taken.name for taken in sets_of([0, 2, 4], (5, 5), "regions")}
    assert three == {"all", "region 1", "region 2", "region 3", "regions 1+2", "regions 1+3", "regions 2+3"}
    five = [taken.name for taken in sets_of([0, 2, 4, 10, 12], (5, 5), "regions")]
    assert len(five) == 1 + 5 + 5
    assert "regions 2+3+4+5" in five
    assert sets_of([3], (5, 5), "regions") == [PatchSet("all", (3,))] == sets_of([3], (5, 5), "singles")


def test_random_sets_are_of_other_patches_and_the_same_again() -> None:
    taken = PatchSet("all", (1, 2, 3))
    free = [0, 4, 5, 6, 7, 8]
    found = random_sets(taken, free, 50, [7, 12])
    assert found == random_sets(taken, free, 50, [7, 12]) != random_sets(taken, free, 50, [7, 13])
    assert all(len({*one.patches}) == 3 and {*one.patches} <= {*free} for one in found)
    counts = np.bincount([patch for one in found for patch in one.patches], minlength=9)
    assert counts[free].min() > 10
    assert [one.patches for one in random_sets(taken, [0], 2, [0])] == [(0,), (0,)]
    assert random_sets(taken, [], 2, [0]) == []


def test_registers_and_highest() -> None:
    norms = np.r_[np.ones(98), 10, 1.2]
    assert registers(norms) == (98,)
    assert registers(np.ones(5)) == ()
    assert highest([1.0, 3, 3, 2, 3], 2) == (1, 2)
