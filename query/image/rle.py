"""Masks of true objects, and how much of each patch they cover.

Masks are written as COCO writes them: run lengths of the pixels column by column, those of the background first; as a
list, or as the text that pycocotools makes of it (Lin et al., "Microsoft COCO: Common Objects in Context", 2014).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from vlq.query.errors import InputError
from vlq.query.image.geometry import patch_box
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
    return _mask(row), Places.of(transform, height, width, grid), transform


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


def areas(objects: pyarrow.Table) -> pyarrow.Table:
    """image, object, area: the share of an image that the objects of one name cover together, by their masks where they
    have some, else by their boxes. Null where none has a place. Rows of one image and name lie together.

    Raises InputError if a mask cannot be read.
    """
    import pyarrow as pa

    found: dict[str, list[Any]] = {"image": [], "object": [], "area": []}
    rows = objects.to_pylist()
    for (image, name), some in groupby(rows, key=lambda row: (row["image"], row["object"])):
        found["image"].append(image)
        found["object"].append(name)
        found["area"].append(_covered_share([*some]))
    kinds = {"image": pa.uint32(), "object": pa.string(), "area": pa.float64()}
    return pa.table({name: pa.array(values, kinds[name]) for name, values in found.items()})


def _covered_share(rows: list[dict[str, Any]]) -> float | None:
    """What of an image objects cover. Among masks a box covers the pixels whose middles are in it."""
    height, width = rows[0]["height"], rows[0]["width"]
    masks = [_mask(row) for row in rows if row["mask_rle"] is not None]
    boxes = [_clipped(row["box"], height, width) for row in rows if row["mask_rle"] is None and _is_placed(row["box"])]
    if not masks and not boxes:
        return None
    if masks:
        y, x = np.arange(height)[:, None] + 0.5, np.arange(width) + 0.5
        inside = [(x0 <= x) & (x < x1) & (y0 <= y) & (y < y1) for x0, y0, x1, y1 in boxes]
        return float(np.any([*masks, *inside], axis=0).mean())
    # Between all edges there are only cells that are covered whole or not at all.
    x0, y0, x1, y1 = np.array(boxes).T
    across, down = np.unique([x0, x1]), np.unique([y0, y1])
    left, top = across[:-1], down[:-1, None]
    covered = np.zeros((len(top), len(left)), bool)
    for box in boxes:
        covered |= (box[0] <= left) & (left < box[2]) & (box[1] <= top) & (top < box[3])
    return float((np.diff(down) @ covered @ np.diff(across)) / (height * width))


def _is_placed(box: list[float] | None) -> bool:
    return box is not None and len(box) == 4 and not any(edge is None or isnan(edge) for edge in box)


def _clipped(box: list[float], height: int, width: int) -> np.ndarray:
    return np.clip(np.array(box, np.float64), 0, [width, height, width, height])


def _mask(row: dict[str, Any]) -> np.ndarray:
    """An object's mask. Raises InputError."""
    try:
        return decoded(row["mask_rle"], row["height"], row["width"])
    except ValueError as error:
        what = f"The mask_rle of an object {row['label']!r} in {row['name']} cannot be read: {error}."
        raise InputError(what, HINT) from error
