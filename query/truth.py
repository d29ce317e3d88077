"""What is truly in an image: the objects that came with it, and the patches that they cover.

An object is where its mask says, if it has one, else where its box does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlq.query.compile import Compiler, Derived
from vlq.query.geometry import COLUMNS, ROWS

if TYPE_CHECKING:
    import pyarrow

    from vlq.query.bind import Scope
    from vlq.query.cache import Snapshot

OBJECTS = "objects"
"""The image column of what is truly there: a list of structs with a `label`, a `box` (x0, y0, x1, y1) in pixels, and a
mask of pixels, `mask_rle` (see `rle`)."""

COVERED = 0.5
"""An object's patch is one that it covers by at least this share of what the patch shows of the image."""

ROUNDING = 1e-9
"""So much less is as good: exactly one half need not come out as one half."""


@dataclass(frozen=True)
class Truth:
    """How the image table tells where objects are."""

    boxes: bool
    masks: bool

    def __bool__(self) -> bool:
        return self.boxes or self.masks


def truth_of(scope: Scope) -> Truth:
    """What the image table tells; nothing without labels."""
    kind = scope.image_columns().get(OBJECTS, "").replace('"', "")
    labelled = kind.endswith(")[]") and "label VARCHAR" in kind
    boxes = re.search(r"\bbox \w+(\(\d+,\d+\))?\[\d*\]", kind) is not None
    # Where no object has a mask, the column may be of any type.
    masks = re.search(r"\bmask_rle (VARCHAR|BLOB|STRUCT\(|\w+\[)", kind) is not None
    return Truth(labelled and boxes, labelled and masks)


def covered_sql(label: str, truth: Truth, compiler: Compiler) -> str:
    """image, patch: the patches of objects of this label, case folded. What of a patch shows padding does not count."""
    parts = [_by_boxes(label, truth, compiler)] if truth.boxes else []
    if truth.masks:
        own = Compiler()
        labelled = f"lower(object.label) = lower({own.value('label', label)})"
        covered = Derived(own.ask(masks_sql(labelled, own)), covered_by_masks)
        parts.append(f"SELECT image, patch FROM {compiler.load('covered', covered)}")
    return "\nUNION ALL\n".join(parts)


def covered_by_masks(snapshot: Snapshot, objects: pyarrow.Table) -> pyarrow.Table:
    """image, patch: the patches that the objects of `masks_sql` cover."""
    from vlq.query.rle import covered_patches

    return covered_patches(COVERED - ROUNDING, objects)


def masks_sql(labelled: str, compiler: Compiler) -> str:
    """SELECT of the objects that have a mask and such a label, as `rle` reads them, images in their order."""
    return f"""\
SELECT image_id AS image, image AS name, width, height, transform, grid, object.label, object.mask_rle
FROM (
  SELECT image_id, image, width, height, transform, grid, unnest({OBJECTS}) AS object
  FROM {compiler.table("images")} WHERE error IS NULL
) AS images
WHERE object.mask_rle IS NOT NULL AND {labelled}
ORDER BY image_id"""


def _by_boxes(label: str, truth: Truth, compiler: Compiler) -> str:
    """The same by the objects' boxes.

    Everything is measured in patches, from the grid's upper left corner: the box and the image are moved there, and
    shares of areas stay what they are.
    """
    unmasked = " AND object.mask_rle IS NULL" if truth.masks else ""

    def moved(edge: str, axis: str, length: str, cells: str) -> str:
        return f"(({edge}) * transform.scale_{axis} + transform.offset_{axis}) * {cells} / transform.{length}"

    x, y = ("x", "width", COLUMNS), ("y", "height", ROWS)
    return f"""\
SELECT image, row * {COLUMNS} + col AS patch
FROM (
  SELECT *, unnest(range(TRY_CAST(floor(x0) AS INTEGER), TRY_CAST(ceil(x1) AS INTEGER))) AS col FROM (
    SELECT *, unnest(range(TRY_CAST(floor(y0) AS INTEGER), TRY_CAST(ceil(y1) AS INTEGER))) AS row FROM (
      -- The image and the box, as far as they lie in the grid.
      SELECT image_id AS image, grid,
        greatest({moved("0", *x)}, 0) AS low_x, least({moved("images.width", *x)}, {COLUMNS}) AS high_x,
        greatest({moved("0", *y)}, 0) AS low_y, least({moved("images.height", *y)}, {ROWS}) AS high_y,
        greatest({moved("object.box[1]", *x)}, low_x) AS x0, least({moved("object.box[3]", *x)}, high_x) AS x1,
        greatest({moved("object.box[2]", *y)}, low_y) AS y0, least({moved("object.box[4]", *y)}, high_y) AS y1
      FROM (
        SELECT image_id, width, height, transform, grid, unnest({OBJECTS}) AS object
        FROM {compiler.table("images")} WHERE error IS NULL
      ) AS images
      WHERE lower(object.label) = lower({compiler.value("label", label)})
        AND object.box[1] + object.box[2] + object.box[3] + object.box[4] IS NOT NULL{unmasked}
    )
  )
)
WHERE x0 < x1 AND y0 < y1 AND (least(col + 1, x1) - greatest(col, x0)) * (least(row + 1, y1) - greatest(row, y0))
  >= {compiler.value("covered", COVERED - ROUNDING)}
  * (least(col + 1, high_x) - greatest(col, low_x)) * (least(row + 1, high_y) - greatest(row, low_y))"""


def labels_sql(images: str) -> str:
    """Every label that an object has, in the alphabet's order."""
    return f"SELECT DISTINCT label FROM (SELECT unnest({OBJECTS}).label AS label FROM {images}) ORDER BY label"
