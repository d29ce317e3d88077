"""locate: in each image, the region whose patches read a token at one layer, held against the true objects."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from vlq.query.functions.phrases import qualified, unstored
from vlq.query.functions.shared import IMAGES, MIN_PATCHES, MIN_PROB, PATCHES, PIECES, RANK, TOKEN
from vlq.query.functions.sources import check_patches, token_layers
from vlq.query.image.geometry import COLUMNS, ROWS, edges, geometries, grids
from vlq.query.language.bind import Bound
from vlq.query.language.compile import Compiler, Derived, Relation, Statement, indented
from vlq.query.language.parameters import OneLayer, Parameter, every_layer
from vlq.query.language.registry import Function
from vlq.query.language.truth import HAS_BOX, OBJECTS, labelled_sql, masks_sql, named, truth_of
from vlq.query.summary import Rows, Summary, count, placed

if TYPE_CHECKING:
    import pyarrow

    from vlq.query.cache.reader import Snapshot


EDGES = ("x0", "y0", "x1", "y1")


def readings_of(bound: Bound) -> Bound:
    """The call as one that asks for the token's readings at the layer, or at all of which one is to be chosen."""
    return bound.given(at="patch", layers=every_layer(bound.run) if bound["layer"] is None else bound["layer"])


def found_sql(bound: Bound, compiler: Compiler) -> str:
    """Image, layer and positions of the images that read the token at the layer."""
    layers = token_layers(readings_of(bound), compiler)
    if bound["layer"] is None:
        layers = f"""\
WITH readings AS (
  {indented(layers)}
)
SELECT image, layer, positions FROM readings
WHERE layer = (SELECT layer FROM readings GROUP BY layer ORDER BY count(*) DESC, layer LIMIT 1)"""
    return f"SELECT image, layer::INTEGER AS layer, positions FROM (\n  {indented(layers)}\n)"


def found_at_layer(bound: Bound) -> Statement:
    """The same by itself, with the images' rows and columns of patches."""
    compiler = Compiler()
    return compiler.ask(f"""\
SELECT found.*, {ROWS} AS rows, {COLUMNS} AS columns
FROM (
  {indented(found_sql(bound, compiler))}
) AS found JOIN {geometries(compiler.table("images"))} ON image_id = image""")


def compile_patches(bound: Bound, compiler: Compiler) -> str:
    """What a call stands for where patches are asked for: the regions, places and truth of its rows are not needed."""
    return f"SELECT image, positions FROM (\n  {indented(found_sql(bound, compiler))}\n)"


def compile_locate(bound: Bound, compiler: Compiler) -> Relation:
    """`found` has the patches of each image at the layer, and how many regions they form; the rest is joined to it."""
    found = compiler.load("found", Derived(found_at_layer(bound), with_regions))
    with_truth = bool(truth_of(bound.scope))
    of_patch = ", ".join(f"{sql} AS {name}" for sql, name in zip(edges("row", "col"), EDGES, strict=True))
    of_all = ", ".join(
        f"{pick}({name}) FILTER (shows)" for pick, name in zip(("min", "min", "max", "max"), EDGES, strict=True)
    )
    sql = f"""\
WITH placed AS (
  SELECT image, avg(row) AS row, avg(col) AS col, CASE WHEN bool_or(shows) THEN [{of_all}] END AS box
  FROM (
    -- What a patch shows of the padding is no part of the image.
    SELECT *, x0 < x1 AND y0 < y1 AS shows
    FROM (
      SELECT image, row, col, {of_patch}
      FROM (
        SELECT *, patch // columns AS row, patch % columns AS col
        FROM (SELECT image, unnest(positions)::INTEGER AS patch FROM {found})
        JOIN {indented(indented(indented(indented(grids(compiler.table("images"))))))} ON image_id = image
      )
    )
  ) GROUP BY image
){truth_sql(bound, compiler)}
SELECT found.image, layer, positions AS patches, box, row, col, regions,
  {"iou, pointing" if with_truth else "NULL::DOUBLE AS iou, NULL::BOOLEAN AS pointing"}
FROM {found} AS found JOIN placed USING (image){" LEFT JOIN judged USING (image)" * with_truth}"""
    shown = ("layer", "patches", "box", "row", "col", "regions", "iou", "pointing")
    return Relation(sql, ("image",), shown, mask="patches")


def with_regions(snapshot: Snapshot, found: pyarrow.Table) -> pyarrow.Table:
    """The same with the number of regions: pieces of which the patches lie apart, corners not touching."""
    import pyarrow as pa

    from vlq.query.image.masks import grids_of, masks_of, regions

    masks = masks_of(found["positions"].combine_chunks(), grids_of(found))
    return found.append_column("regions", pa.array(regions(masks)))


def truth_sql(bound: Bound, compiler: Compiler) -> str:
    """Queries up to `judged`: the best overlap with a true object, and whether the centroid is in one.

    Of an object with a mask that is the overlap of the patches with its pixels, else that of `box` with its box.
    """
    truth = truth_of(bound.scope)
    if not truth:
        return ""
    labels = named(bound.token.words, bound.scope.labels())
    parts = []
    if truth.masks:
        masks = compiler.load("masks", Derived(found_masks(bound, labels), judged_by_masks))
        parts.append(f"SELECT image, iou, inside FROM {masks}")
    boxes = ""
    if truth.boxes:
        x = f"((col + 0.5) * transform.width / {COLUMNS} - transform.offset_x) / transform.scale_x"
        y = f"((row + 0.5) * transform.height / {ROWS} - transform.offset_y) / transform.scale_y"
        boxes = f"""truth AS (
  SELECT image_id AS image, transform, grid, object.box AS truth
  FROM (SELECT image_id, transform, grid, unnest({OBJECTS}) AS object FROM {compiler.table("images")})
  WHERE {labelled_sql(labels, compiler)} AND {HAS_BOX}\
{" AND object.mask_rle IS NULL" * truth.masks}
), """
        parts.append(f"""\
SELECT image, shared / (area + true_area - shared) AS iou, inside
FROM (
  SELECT image, (box[3] - box[1]) * (box[4] - box[2]) AS area,
    (truth[3] - truth[1]) * (truth[4] - truth[2]) AS true_area,
    greatest(least(box[3], truth[3]) - greatest(box[1], truth[1]), 0)
      * greatest(least(box[4], truth[4]) - greatest(box[2], truth[2]), 0) AS shared,
    {x} BETWEEN truth[1] AND truth[3] AND {y} BETWEEN truth[2] AND truth[4] AS inside
  FROM placed JOIN truth USING (image)
)""")
    return f""", {boxes}judged AS (
  SELECT image, coalesce(max(iou), 0) AS iou, bool_or(inside) AS pointing
  FROM (
    {indented(indented(f"{chr(10)}UNION ALL{chr(10)}".join(parts)))}
  ) GROUP BY image
)"""


def judged_by_masks(snapshot: Snapshot, objects: pyarrow.Table) -> pyarrow.Table:
    from vlq.query.image.rle import judged

    return judged(objects)


def found_masks(bound: Bound, labels: Sequence[str]) -> Statement:
    """The masks of such objects in the images that read the token at the layer, each beside the positions."""
    compiler = Compiler()
    objects = masks_sql(labelled_sql(labels, compiler), compiler)
    return compiler.ask(f"""\
SELECT * FROM (
  {indented(found_sql(bound, compiler))}
) JOIN (
  {indented(objects)}
) USING (image) ORDER BY image""")


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """In how many images it is read at the layer; the medians of patches and regions; how it does against the truth."""
    judged = [row for row in rows if row["iou"] is not None]
    return {
        "images": images,
        "matched": len(rows),
        "layer": rows[0]["layer"] if rows else None,
        "patches": median(len(row["patches"]) for row in rows) if rows else None,
        "regions": median(row["regions"] for row in rows) if rows else None,
        "judged": len(judged),
        "iou": median(row["iou"] for row in judged) if judged else None,
        "pointing": sum(row["pointing"] for row in judged) / len(judged) if judged else None,
    }


def headline(bound: Bound, summary: Summary) -> str:
    """Where it is read, by how many patches, and how that agrees with the truth."""
    found = readings_of(bound)
    read = f"{bound.token.label}{qualified(found)}: read"
    if not summary["matched"]:
        return f"{read} in none of {count(summary['images'], 'image')}{placed(summary)}"
    where = "" if bound["layer"] is not None else f" at layer {summary['layer']}"
    sentence = (
        f"{read}{where} in {summary['matched']:,} of {count(summary['images'], 'image')}, median "
        f"{count(summary['patches'], 'patch')} in {count(summary['regions'], 'region')}{placed(summary)}"
    )
    if not summary["judged"]:
        return sentence
    return (
        f"{sentence}; in {summary['judged']:,} with a true object, median IoU {summary['iou']:.2f}, "
        f"centroid inside one in {summary['pointing']:.0%}"
    )


def notes(bound: Bound) -> list[str]:
    found = unstored(bound)
    if bound["layer"] is None:
        found.append("The layer is the one at which most images read it, the lowest of equal ones.")
    return found


LOCATE = Function(
    name="locate",
    parameters=(
        TOKEN,
        Parameter("layer", OneLayer(), "which layer; by default the one at which most images read it", None),
        RANK,
        MIN_PROB,
        PATCHES,
        MIN_PATCHES,
        IMAGES,
        PIECES,
    ),
    positional=1,
    documentation="In each image, where the token is read at one layer: box, centroid, regions, and how true that is.",
    example="locate('dog', min_prob=0.5)",
    check=check_patches,
    compile=compile_locate,
    summarise=summarise,
    headline=headline,
    at="patch",
    notes=notes,
    patches=compile_patches,
)
