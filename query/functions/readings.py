"""readings: every place where the token is read."""

from __future__ import annotations

from vlq.query.functions.phrases import WHERE, asked, qualified, unstored
from vlq.query.functions.shared import AGAINST, AT, IMAGES, LAYERS, MIN_PROB, PATCHES, PIECES, PLACE, RANK, TOKEN
from vlq.query.functions.sources import check_site, token_positions
from vlq.query.image.geometry import edges, grids
from vlq.query.language.against import contrast_layers, held_against
from vlq.query.language.bind import Bound
from vlq.query.language.compile import Compiler, Relation, indented
from vlq.query.language.registry import Function
from vlq.query.summary import (
    Rows,
    Summary,
    Totals,
    count,
    figure,
    layer_summary,
    layer_totals,
    layer_totals_sql,
    placed,
)


def compile_readings(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each reading that counts; patches with their places in the grid and in the original's pixels."""
    readings = token_positions(bound, compiler)
    key = PLACE[bound["at"]]
    order = ("answer.layer",)
    if not key:
        return Relation(readings, ("image", "layer"), ("rank", "logprob"), "logprob", order)
    if key == ("position",):
        return Relation(readings, ("image", "layer", "position"), ("rank", "logprob"), "logprob", order)
    sql = f"""\
SELECT image, layer, patch, rank, logprob, row, col,
  [{", ".join(edges("row", "col"))}] AS box
FROM (
  SELECT *, position AS patch, position // columns AS row, position % columns AS col
  FROM (
    {indented(indented(readings))}
  ) AS found JOIN {indented(grids(compiler.table("images")))} ON image_id = image
)"""
    return Relation(sql, ("image", "layer", "patch"), ("rank", "logprob", "row", "col", "box"), "logprob", order)


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """How many readings there are, in how many images, and at which layers."""
    return sum_up(bound, layer_totals(rows), images)


def totals(bound: Bound) -> dict[str, str]:
    return layer_totals_sql()


def sum_up(bound: Bound, totals: Totals, images: int) -> Summary:
    return layer_summary(totals, bound.layers.layers, images) | {"readings": totals["stored"]}


def headline(bound: Bound, summary: Summary) -> str:
    read = f"{bound.token.label}{qualified(bound)}: read{WHERE[bound['at']]}"
    more = placed(summary) + held_against(summary)
    if summary["matched"] == 0:
        return f"{read} in none of {count(summary['images'], 'image')}{more}"
    return (
        f"{read} in {summary['matched']:,} of {count(summary['images'], 'image')}, "
        f"{count(summary['readings'], 'reading')}, median layer {figure(summary['median'])}, "
        f"from {summary['min']} to {summary['max']}{more}"
    )


READINGS = Function(
    name="readings",
    parameters=(TOKEN, RANK, MIN_PROB, LAYERS, AT, PATCHES, IMAGES, AGAINST, PIECES),
    positional=1,
    documentation="Every place where the token is read: layer, patch, rank, log-probability, and the box in pixels.",
    example="readings(token='dog', min_prob=0.9, layers=8)",
    check=check_site,
    compile=compile_readings,
    summarise=summarise,
    totals=totals,
    sum_up=sum_up,
    headline=headline,
    subject=asked,
    contrast=contrast_layers,
    notes=unstored,
)
