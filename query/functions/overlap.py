"""overlap: where two tokens are read in the same layer, how many patches they share and how far apart they are."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from vlq.query.functions.phrases import qualified, unstored
from vlq.query.functions.shared import AGAINST, IMAGES, LAYERS, MIN_PATCHES, MIN_PROB, PATCHES, PIECES, RANK
from vlq.query.functions.sources import check_patches, token_layers
from vlq.query.image.geometry import COLUMNS, geometries
from vlq.query.language.against import contrast_layers, held_against
from vlq.query.language.bind import Bound
from vlq.query.language.compile import Compiler, Relation, indented
from vlq.query.language.parameters import Parameter, StoredRank, Tokens
from vlq.query.language.registry import Function
from vlq.query.summary import Rows, Summary, count, layer_summary, layer_totals, placed


def readings_of(bound: Bound, name: str) -> Bound:
    """The call as one that asks for the readings of one of the two tokens."""
    return bound.given(at="patch", token=bound[name])


def compile_overlap(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each image and layer in which both are read."""
    one, other = (readings_of(bound, name) for name in ("a", "b"))
    a, b = token_layers(one, compiler, beside=other), token_layers(other, compiler, beside=one)
    # Where all images have one grid, what is read of each is not brought to each pair of patches.
    across, grids = (
        (COLUMNS, f" JOIN {geometries(compiler.table('images'))} ON image_id = image")
        if bound.run.grid is None
        else (compiler.value("across", bound.run.grid[1]), "")
    )
    place = f"[patch // {across}, patch % {across}]::DOUBLE[]"
    # Made once for each patch: of each pair it would take twice the time of the distance itself.
    p_at, q_at = (f"list_transform({patches}, lambda patch: {place})" for patches in ("p_all", "q_all"))
    apart = "list_min(list_transform(p_at, lambda p: list_min(list_transform(q_at, lambda q: list_distance(p, q)))))"
    sql = f"""\
WITH a AS (
  {indented(a)}
), b AS (
  {indented(b)}
), met AS (
  SELECT image, layer::INTEGER AS layer, a.positions::INTEGER[] AS p_all, b.positions::INTEGER[] AS q_all,
    list_sort(list_intersect(p_all, q_all)) AS patches,
    {p_at} AS p_at, {q_at} AS q_at
  FROM a JOIN b USING (image, layer){grids}
)
SELECT image, layer, len(patches) AS both, len(p_all) + len(q_all) - len(patches) AS either,
  len(patches) / either AS iou, CASE WHEN len(patches) > 0 THEN 0 ELSE {apart} END AS distance, patches
FROM met"""
    return Relation(sql, ("image", "layer"), ("both", "either", "iou", "distance", "patches"), "iou")


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """In how many images both are read at one layer, and share a patch; the medians and extremes over these layers."""
    summary = layer_summary(layer_totals(rows), bound.layers.layers, images)
    summary["shared"] = len({row["image_id"] for row in rows if row["both"]})
    for name in ("iou", "distance"):
        summary[name] = median(row[name] for row in rows) if rows else None
    summary["largest_iou"] = max((row["iou"] for row in rows), default=None)
    return summary


def headline(bound: Bound, summary: Summary) -> str:
    both = f"{bound['a'].label} and {bound['b'].label}{qualified(bound.given(at='patch'))}: read at the same layer"
    more = placed(summary) + held_against(summary, _shared)
    if not summary["matched"]:
        return f"{both} in none of {count(summary['images'], 'image')}{more}"
    return f"{both} in {summary['matched']:,} of {count(summary['images'], 'image')}, {_shared(summary)}{more}"


def _shared(found: Summary) -> str:
    return (
        f"by the same patch in {found['shared']:,}; median distance {count(round(found['distance'], 2), 'patch')}, "
        f"median IoU {found['iou']:.2f}, largest {found['largest_iou']:.2f}"
    )


def notes(bound: Bound) -> list[str]:
    found = dict.fromkeys(note for name in ("a", "b") for note in unstored(readings_of(bound, name)))
    if bound["rank"] == 1 and bound.run.k > 1 and not {*bound["a"].ids} & {*bound["b"].ids}:
        return [*found, "At rank 1 a patch reads one token only, so none is shared; a higher rank= counts more."]
    return list(found)


OVERLAP = Function(
    name="overlap",
    parameters=(
        Parameter("a", Tokens(), "one token, or set of tokens"),
        Parameter("b", Tokens(), "the other"),
        replace(
            RANK, type=StoredRank(), default=None, documentation="count readings among the so many best; all by default"
        ),
        MIN_PROB,
        LAYERS,
        PATCHES,
        MIN_PATCHES,
        IMAGES,
        AGAINST,
        PIECES,
    ),
    positional=2,
    documentation="Where two tokens are read at the same layer: patches that read both, and the distance between them.",
    example="overlap('dog', 'ear', min_prob=0.05)",
    check=check_patches,
    compile=compile_overlap,
    summarise=summarise,
    headline=headline,
    at="patch",
    contrast=contrast_layers,
    notes=notes,
)
