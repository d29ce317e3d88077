"""Sets of patches as masks, and what SQL is slow at with them: what lies around, what hangs together."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def grids_of(table: pa.Table) -> np.ndarray:
    """(row of the table, 2): its columns `rows` and `columns`, which are an image's of patches."""
    return np.stack([table[name].to_numpy() for name in ("rows", "columns")], 1)


def masks_of(lists: pa.ListArray, grids: np.ndarray) -> np.ndarray:
    """Lists of patches in grids (list, 2) -> (list, row, column): whether a list holds the patch.

    As large as the largest of the grids; each lies at the upper left.
    """
    of, patch = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy()), lists.flatten().to_numpy()
    masks = np.zeros((len(lists), *grids.max(0, initial=0)), bool)
    columns = grids[:, 1]
    if (columns == masks.shape[2]).all():
        masks.reshape(len(masks), masks.shape[1] * masks.shape[2])[of, patch] = True
    else:
        masks[of, patch // columns[of], patch % columns[of]] = True
    return masks


def cells_of(masks: np.ndarray, grids: np.ndarray, patches: int) -> np.ndarray:
    """Masks as `masks_of` gives them -> (mask, patch) by the patches' numbers, so many; what lies beyond a grid is
    left out."""
    if (grids == masks.shape[1:]).all():
        cells = masks.reshape(len(masks), masks.shape[1] * masks.shape[2])
        return cells if cells.shape[1] == patches else np.pad(cells, ((0, 0), (0, patches - cells.shape[1])))
    of, row, column = np.nonzero(masks)
    inside = (row < grids[of, 0]) & (column < grids[of, 1])
    of, row, column = of[inside], row[inside], column[inside]
    found = np.zeros((len(masks), patches), bool)
    found[of, row * grids[of, 1] + column] = True
    return found


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
    """How many regions the cells of each mask (mask, row, column) form: (mask,). Cells of a region touch by a side."""
    label = labels(masks)
    roots = np.flatnonzero(label == np.arange(len(label)))
    return np.bincount(np.nonzero(masks)[0][roots], minlength=len(masks))


def labels(masks: np.ndarray) -> np.ndarray:
    """(cell,) of the cells of masks (mask, row, column), in their order: the number of the first one of its region.

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
    return label
