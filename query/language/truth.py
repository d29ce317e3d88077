"""What is truly in an image: the objects that came with it, and the patches that they cover.

An object is where its mask says, if it has one, else where its box does.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from vlq.query.image.geometry import COLUMNS, ROWS
from vlq.query.language.compile import Compiler, Derived

if TYPE_CHECKING:
    import duckdb
    import pyarrow

    from vlq.query.cache.reader import Snapshot
    from vlq.query.language.bind import Scope

OBJECTS = "objects"
"""The image column of what is truly there: a list of structs with a `label`, a `box` (x0, y0, x1, y1) in pixels, and a
mask of pixels, `mask_rle` (see `rle`)."""

HAS_BOX = "NOT isnan((object.box[1] + object.box[2] + object.box[3] + object.box[4])::DOUBLE)"
"""SQL: whether an object's box has all its edges. One without, and without a mask, is nowhere in particular."""

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
    return truth_in(scope.image_columns().get(OBJECTS, ""))


def truth_in(kind: str) -> Truth:
    """What a column of this DuckDB type tells of objects; nothing without labels."""
    kind = kind.replace('"', "")
    labelled = kind.endswith(")[]") and "label VARCHAR" in kind
    boxes = re.search(r"\bbox \w+(\(\d+,\d+\))?\[\d*\]", kind) is not None
    # Where no object has a mask, the column may be of any type.
    masks = re.search(r"\bmask_rle (VARCHAR|BLOB|STRUCT\(|\w+\[)", kind) is not None
    return Truth(labelled and boxes, labelled and masks)


def named(words: Iterable[str], labels: Iterable[str]) -> list[str]:
    """Of these labels those that are one of the words, case folded as tokens' texts are."""
    folded = {word.casefold() for word in words}
    return [label for label in labels if label.casefold() in folded]


def covered_sql(labels: Sequence[str], truth: Truth, compiler: Compiler) -> str:
    """image, patch: the patches of objects of these labels. What of a patch shows padding does not count."""
    parts = [boxes_sql(labelled_sql(labels, compiler), truth, compiler)] if truth.boxes else []
    if truth.masks:
        own = Compiler()
        labelled = labelled_sql(labels, own)
        covered = Derived(own.ask(masks_sql(labelled, own)), covered_by_masks)
        parts.append(f"SELECT image, patch FROM {compiler.load('covered', covered)}")
    return "\nUNION ALL\n".join(parts)


def labelled_sql(labels: Sequence[str], compiler: Compiler) -> str:
    """Whether an object has one of these labels."""
    return f"object.label IN (SELECT unnest({compiler.value('labels', list(labels))}::VARCHAR[]))"


class _Given(Compiler):
    """Tables are what the connection has under their names."""

    def table(self, name: str, tokens: Sequence[int] | None = None) -> str:
        return name


def covered_in(images: pyarrow.Table, label: str | None) -> dict[int, list[int]]:
    """By the images' numbers, the patches that their objects cover, or those of this label, ascending: as `covered_sql`
    has them; images of which none is covered are left out.

    `images` has the columns of the image table that tell names, geometry and errors, and OBJECTS. Raises InputError if
    a mask cannot be read.
    """
    compiler, labelled = _Given(), "true"
    with _connection().cursor() as cursor:
        cursor.register("images", images)
        if label is not None:
            known = [name for (name,) in cursor.execute(labels_sql("images")).fetchall() if name is not None]
            labelled = labelled_sql(named([label], known), compiler)
        truth, found = _described(cursor), defaultdict[int, set[int]](set)
        cells: list[tuple[int, int]] = []
        if truth.boxes:
            by_boxes = compiler.ask(boxes_sql(labelled, truth, compiler))
            cells += cursor.execute(by_boxes.sql, dict(by_boxes.parameters)).fetchall()
        if truth.masks:
            with_masks = compiler.ask(masks_sql(labelled, compiler))
            objects = cursor.sql(with_masks.sql, params=dict(with_masks.parameters)).to_arrow_table()
            cells += zip(*(column.to_pylist() for column in _covered(objects).columns), strict=True)
    for image, patch in cells:
        found[image].add(patch)
    return {image: sorted(patches) for image, patches in found.items()}


def objects_in(column: pyarrow.Array) -> Truth:
    """What a column tells of objects."""
    import pyarrow

    with _connection().cursor() as cursor:
        cursor.register("images", pyarrow.table({OBJECTS: column.slice(0, 0)}))
        return _described(cursor)


def _described(cursor: duckdb.DuckDBPyConnection) -> Truth:
    ((kind,),) = cursor.execute(f"SELECT column_type FROM (DESCRIBE SELECT {OBJECTS} FROM images)").fetchall()
    return truth_in(kind)


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    """One for all: to make one takes longer than what is asked of it here."""
    import duckdb

    return duckdb.connect(config={"threads": 1})


def covered_by_masks(snapshot: Snapshot, objects: pyarrow.Table) -> pyarrow.Table:
    """image, patch: the patches that the objects of `masks_sql` cover."""
    return _covered(objects)


def _covered(objects: pyarrow.Table) -> pyarrow.Table:
    from vlq.query.image.rle import covered_patches

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


def boxes_sql(labelled: str, truth: Truth, compiler: Compiler) -> str:
    """SELECT of image and patch: what the boxes of the objects cover for which `labelled` holds, and that have no mask.

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
      WHERE {labelled}
        AND {HAS_BOX}{unmasked}
    )
  )
)
WHERE x0 < x1 AND y0 < y1 AND (least(col + 1, x1) - greatest(col, x0)) * (least(row + 1, y1) - greatest(row, y0))
  >= {compiler.value("covered", COVERED - ROUNDING)}
  * (least(col + 1, high_x) - greatest(col, low_x)) * (least(row + 1, high_y) - greatest(row, low_y))"""


def labels_sql(images: str) -> str:
    """Every label that an object has, in the alphabet's order."""
    return f"SELECT DISTINCT label FROM (SELECT unnest({OBJECTS}).label AS label FROM {images}) ORDER BY label"
