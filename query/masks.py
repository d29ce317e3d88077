"""Sets of patches as masks, and what SQL is slow at with them: what lies around, what hangs together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def masks_of(lists: pa.ListArray, grid: tuple[int, int]) -> np.ndarray:
    """Lists of patches -> (list, row, column): whether a list holds the patch."""
    masks = np.zeros((len(lists), grid[0] * grid[1]), bool)
    masks[np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy()), lists.flatten().to_numpy()] = True
    return masks.reshape(-1, *grid)


def around(masks: np.ndarray) -> np.ndarray:
    """The cells outside of each mask that touch one of it by a side or a corner: (mask, row, column)."""
    beside = masks.copy()
    beside[:, :, 1:] |= masks[:, :, :-1]
    beside[:, :, :-1] |= masks[:, :, 1:]
    near = beside.copy()
    near[:, 1:] |= beside[:, :-1]
    near[:, :-1] |= beside[:, 1:]
    near &= ~masks
    return near


def regions(masks: np.ndarray) -> np.ndarray:
    """How many regions the cells of each mask (mask, row, column) form: (mask,). Cells of a region touch by a side.

    Labels are cells. In each round a label takes the lowest of those that touch its cells, and whatever had that label
    jumps to where it leads, so that rounds are few however a region winds (Shiloach and Vishkin, An O(log n) parallel
    connectivity algorithm, 1982).
    """
    number = (np.cumsum(masks, dtype=np.int32) - 1).reshape(masks.shape)
    right, down = masks[:, :, :-1] & masks[:, :, 1:], masks[:, :-1] & masks[:, 1:]
    one = np.concatenate([number[:, :, :-1][right], number[:, :-1][down]])
    other = np.concatenate([number[:, :, 1:][right], number[:, 1:][down]])
    label = np.arange(masks.sum(), dtype=np.int32)
    while len(one):
        np.minimum.at(label, other, one)
        while (label[label] != label).any():
            label = label[label]
        one, other = label[one], label[other]
        apart = one != other
        one, other = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
    roots = np.flatnonzero(label == np.arange(len(label)))
    return np.bincount(np.nonzero(masks)[0][roots], minlength=len(masks))
