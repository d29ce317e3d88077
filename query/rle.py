"""Masks of true objects, and how much of each patch they cover.

Masks are written as COCO writes them: run lengths of the pixels column by column, those of the background first; as a
list, or as the text that pycocotools makes of it (Lin et al., "Microsoft COCO: Common Objects in Context", 2014).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlq.query.errors import InputError
from vlq.query.geometry import patch_box
from vlq.query.schema import Transform

if TYPE_CHECKING:
    import pyarrow

HINT = (
    "Expected COCO's run lengths (counts) of the image's pixels, column by column, the background first: "
    "a list, or the text that pycocotools makes of it; or {size: [height, width], counts: ...}."
)


def run_lengths(text: str) -> list[int]:
    """The counts that a text stands for. Raises ValueError.

    A character is six bits, from '0' on: five of a number, the lowest first, and whether more follow; the number's last
    bit is its sign. From the fourth on it is by how much a count is larger than the last but one before it.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no part of run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("it ends within a number")
    return counts


def decoded(rle: Any, height: int, width: int) -> np.ndarray:
    """(row, column): whether a pixel of an image of this size is in the mask. Raises ValueError."""
    counts = rle
    if isinstance(rle, Mapping):
        counts = rle.get("counts")
        if rle.get("size") is not None and [*rle["size"]] != [height, width]:
            raise ValueError(f"its size is {[*rle['size']]}, the image's [{height}, {width}]")
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if isinstance(counts, str):
        counts = run_lengths(counts)
    if not isinstance(counts, list) or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise ValueError("its counts are no whole numbers from 0")
    if sum(counts) != height * width:
        raise ValueError(f"its counts add up to {sum(counts):,}, the image has {height * width:,} pixels")
    inside: np.ndarray = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    mask: np.ndarray = inside.reshape(width, height).T
    return mask


@dataclass(frozen=True)
class Places:
    """An image's patches as they lie in it, for sums over their pixels: parts of pixels count as such."""

    rows: np.ndarray  # (row of the grid, row of pixels): how much of a pixel's height lies in the patches' row
    columns: np.ndarray  # (column of the grid, column of pixels)

    @classmethod
    def of(cls, transform: Transform, height: int, width: int, grid: tuple[int, int]) -> Places:
        first_row = [patch_box(transform, (width, height), grid, column) for column in range(grid[1])]
        first_column = [patch_box(transform, (width, height), grid, row * grid[1]) for row in range(grid[0])]
        rows, columns = ([box[1::2] for box in first_column], [box[::2] for box in first_row])
        return cls(_shares(rows, height), _shares(columns, width))

    @property
    def areas(self) -> np.ndarray:
        """(patch,) what each shows of the image, in pixels."""
        found: np.ndarray = np.outer(self.rows.sum(1), self.columns.sum(1)).reshape(-1)
        return found

    def covered(self, mask: np.ndarray) -> np.ndarray:
        """(patch,) how much of that is in a mask (row, column)."""
        found: np.ndarray = (self.rows @ mask.astype(np.float64) @ self.columns.T).reshape(-1)
        return found


def _shares(spans: list[Any], length: int) -> np.ndarray:
    """(span, pixel): how much of each pixel of an axis lies in each span."""
    low, high = np.array(spans, np.float64).T[:, :, None]
    pixel = np.arange(length)
    shares: np.ndarray = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return shares


# --- tables of masks -------------------------------------------------------------------------------------------


def _read(row: dict[str, Any]) -> tuple[np.ndarray, Places, Transform]:
    """An object's mask, and its image's patches. Raises InputError."""
    height, width, transform = row["height"], row["width"], Transform(**row["transform"])
    grid = row["grid"]["rows"], row["grid"]["columns"]
    try:
        mask = decoded(row["mask_rle"], height, width)
    except ValueError as error:
        what = f"The mask_rle of an object {row['label']!r} in {row['name']} cannot be read: {error}."
        raise InputError(what, HINT) from error
    return mask, Places.of(transform, height, width, grid), transform


def covered_patches(share: float, objects: pyarrow.Table) -> pyarrow.Table:
    """image, patch: the patches of which an object's mask covers at least a share of what they show."""
    import pyarrow as pa

    images, patches = [np.zeros(0, np.uint32)], [np.zeros(0, np.int32)]
    for row in objects.to_pylist():
        mask, places, _ = _read(row)
        areas = places.areas
        found = np.flatnonzero((areas > 0) & (places.covered(mask) >= share * areas))
        images.append(np.full(len(found), row["image"], np.uint32))
        patches.append(found.astype(np.int32))
    return pa.table({"image": np.concatenate(images), "patch": np.concatenate(patches)})


def judged(objects: pyarrow.Table) -> pyarrow.Table:
    """image, iou, inside: how `positions` overlap with each mask, in pixels, and whether their mean is in it."""
    import pyarrow as pa

    found: dict[str, list[Any]] = {"image": [], "iou": [], "inside": []}
    for row in objects.to_pylist():
        mask, places, transform = _read(row)
        rows, columns = row["grid"]["rows"], row["grid"]["columns"]
        shared = places.covered(mask)[row["positions"]].sum()
        either = places.areas[row["positions"]].sum() + mask.sum() - shared
        y, x = np.mean([divmod(patch, columns) for patch in row["positions"]], axis=0) + 0.5
        x = (x * transform.width / columns - transform.offset_x) / transform.scale_x
        y = (y * transform.height / rows - transform.offset_y) / transform.scale_y
        within = 0 <= x < mask.shape[1] and 0 <= y < mask.shape[0]
        found["image"].append(row["image"])
        found["iou"].append(float(shared / either) if either else 0.0)
        found["inside"].append(bool(within and mask[int(y), int(x)]))
    kinds = {"image": pa.uint32(), "iou": pa.float64(), "inside": pa.bool_()}
    return pa.table({name: pa.array(values, kinds[name]) for name, values in found.items()})
