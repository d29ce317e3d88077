"""Masks against flood fill and a walk around each cell."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlq.query.image.masks import around, cells_of, masks_of, regions

from ..corpora import flood_fill

pytestmark = pytest.mark.here("the arithmetic of masks")

grids = st.tuples(st.integers(1, 7), st.integers(1, 7))


@st.composite
def several_masks(draw: st.DrawFn) -> np.ndarray:
    shape = draw(st.integers(0, 4)), *draw(grids)
    return np.random.default_rng(draw(st.integers(0, 2**32))).random(shape) < draw(st.floats(0, 1))


@settings(deadline=None, max_examples=300)
@given(masks=several_masks())
def test_regions(masks: np.ndarray) -> None:
    expected = [flood_fill(np.flatnonzero(mask).tolist(), masks.shape[2]) for mask in masks]
    assert regions(masks).tolist() == expected


@pytest.mark.parametrize("share", [0.2, 0.5, 0.6, 0.9])
def test_regions_of_large_masks(share: float) -> None:
    masks = np.random.default_rng(0).random((20, 24, 24)) < share
    assert regions(masks).tolist() == [flood_fill(np.flatnonzero(mask).tolist(), 24) for mask in masks]


@settings(deadline=None)
@given(masks=several_masks())
def test_around(masks: np.ndarray) -> None:
    _, rows, columns = masks.shape
    expected = np.zeros_like(masks)
    for mask, row, column in np.argwhere(masks):
        for r in range(max(0, row - 1), min(rows, row + 2)):
            for c in range(max(0, column - 1), min(columns, column + 2)):
                expected[mask, r, c] |= not masks[mask, r, c]
    before = masks.copy()
    assert (around(masks) == expected).all()
    assert (masks == before).all()


@settings(deadline=None)
@given(masks=several_masks())
def test_masks_of_lists(masks: np.ndarray) -> None:
    lists = pa.array([np.flatnonzero(mask).tolist() for mask in masks], pa.list_(pa.uint16()))
    alike = np.tile(masks.shape[1:], (len(masks), 1))
    assert masks_of(lists, alike).tolist() == masks.tolist()
    halves = pa.concat_arrays([lists[: len(lists) // 2], lists[len(lists) // 2 :]])
    assert masks_of(halves, alike).tolist() == masks.tolist()
    assert masks_of(lists[1:], alike[1:]).tolist() == masks[1:].tolist()


@settings(deadline=None)
@given(several=st.lists(several_masks().filter(len), max_size=4), more=st.integers(0, 3))
def test_masks_in_grids_of_their_own(several: list[np.ndarray], more: int) -> None:
    own = [masks[0] for masks in several]
    lists = pa.array([np.flatnonzero(mask).tolist() for mask in own], pa.list_(pa.uint16()))
    grids = np.array([mask.shape for mask in own], np.int32).reshape(-1, 2)
    masks = masks_of(lists, grids)
    for found, mask in zip(masks, own, strict=True):
        rows, columns = mask.shape
        assert (found[:rows, :columns] == mask).all()
        assert found.sum() == mask.sum()
    patches = int(grids.prod(1).max(initial=0)) + more
    near = around(masks)
    for found, beside, mask in zip(cells_of(masks, grids, patches), cells_of(near, grids, patches), own, strict=True):
        assert np.flatnonzero(found).tolist() == np.flatnonzero(mask).tolist()
        assert np.flatnonzero(beside).tolist() == np.flatnonzero(around(mask[None])[0]).tolist()
        assert len(found) == len(beside) == patches
