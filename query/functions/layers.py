"""first_layer, last_layer, peak_layer: of each image (or patch) one of the layers where the token is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from vlq.query.functions.phrases import WHERE, asked, qualified, unstored
from vlq.query.functions.shared import (
    AGAINST,
    AT,
    BY,
    IMAGES,
    LAYERS,
    MIN_PATCHES,
    MIN_PROB,
    MIN_RUN,
    MISSING,
    PATCHES,
    PIECES,
    PLACE,
    RANK,
    TOKEN,
)
from vlq.query.functions.sources import check_min_patches, check_site, token_layers, token_positions
from vlq.query.language.against import contrast_layers, held_against
from vlq.query.language.bind import Bound, Scope
from vlq.query.language.compile import Compiler, Relation, indented
from vlq.query.language.registry import Function
from vlq.query.mistakes.values import BY_PATCH_OF_TEXT, MISSING_BY, RUN_TOO_LONG
from vlq.query.summary import (
    Rows,
    Summary,
    Totals,
    count,
    figure,
    layer_summary,
    layer_totals,
    layer_totals_sql,
    one_layer_each,
    placed,
)


@dataclass(frozen=True)
class Pick:
    """Which of the layers it is."""

    word: str  # the median ... layer
    layer: str  # SQL: the layer
    at: str  # SQL: a column's value at that layer
    run: str | None  # SQL: whether a layer begins or ends a run of {more} + 1, among those of one {unit}
    below: bool  # whether layers below the ones that were looked at might change it
    above: bool  # whether layers above might
    order: str  # SQL: which image comes first, when one is to stand for the corpus
    extreme: str  # how the sentence ends


FIRST = Pick(
    "first",
    "min(layer)",
    "arg_min({}, layer)",
    "lead(layer, {more}) OVER (PARTITION BY {unit} ORDER BY layer) = layer + {more}",
    True,
    False,
    "layer",
    "earliest {min}",
)
LAST = Pick(
    "last",
    "max(layer)",
    "arg_max({}, layer)",
    "lag(layer, {more}) OVER (PARTITION BY {unit} ORDER BY layer) = layer::INTEGER - {more}",
    False,
    True,
    "layer DESC",
    "latest {max}",
)
PEAK = Pick(
    "peak",
    "arg_max(layer, (logprob, -layer::INTEGER))",  # of equal ones the lowest
    "arg_max({}, (logprob, -layer::INTEGER))",
    None,
    True,
    True,
    "logprob DESC",
    "from {min} to {max}",
)


def check(bound: Bound, scope: Scope) -> None:
    """Raises BadArgument for arguments that do not go together or that the cache has no readings for."""
    check_site(bound, scope)
    at = bound["at"]
    if bound["by"] == "patch" and at != "patch":
        raise scope.error(BY_PATCH_OF_TEXT, bound.argument("by"), at=at)
    positions = 1 if bound["by"] == "patch" else bound.run.positions[at]
    where = "by='patch' a row" if bound["by"] == "patch" else f"at='{at}' a layer"
    check_min_patches(bound, scope, positions, where)
    if bound["missing"] is not None and bound["by"] != "image":
        raise scope.error(MISSING_BY, bound.argument("missing"))
    if bound.values.get("min_run", 1) > len(bound.layers.layers):
        raise scope.error(RUN_TOO_LONG, bound.argument("min_run"), layers=count(len(bound.layers.layers), "layer"))


def compile_layer(pick: Pick, bound: Bound, compiler: Compiler) -> Relation:
    """`layers` are the layers that count, with what is read there; of each image's or patch's, one is picked."""
    by_patch = bound["by"] == "patch"
    unit = "image, position" if by_patch else "image"
    layers = token_positions(bound, compiler) if by_patch else token_layers(bound, compiler, logprob=True)
    if bound.values.get("min_run", 1) > 1:
        # Layers ascend without repeats: it is a run if the layer so many places on is so many higher.
        assert pick.run is not None
        more = compiler.value("more", bound["min_run"] - 1)
        layers = f"SELECT * FROM (\n  {indented(layers)}\n) QUALIFY {pick.run.format(unit=unit, more=more)}"
    # `patches` are the image's patches: a text position is none of them.
    positions = "[position]" if by_patch else pick.at.format("positions")
    values = {
        "layer": f"{pick.layer}::INTEGER",
        "patches": positions if bound["at"] == "patch" else "[]",
        **({"positions": positions} if PLACE[bound["at"]] == ("position",) else {}),
        "logprob": pick.at.format("logprob"),
        "censored": _censored(pick, bound, compiler),
    }
    shown = ",\n  ".join(f"{value} AS {name}" for name, value in values.items())
    sql = f"""\
WITH layers AS (
  {indented(layers)}
)
SELECT {"image, position AS patch" if by_patch else "image"}, {shown}
FROM layers GROUP BY {unit}"""
    keys = ("image", "patch") if by_patch else ("image",)
    relation = Relation(sql, keys, tuple(values), "layer", ("answer.layer",))
    if bound["missing"] is not None:
        relation = _with_missing(bound, relation, compiler)
    return _one_row(pick, relation, compiler) if bound["by"] == "corpus" else relation


def _censored(pick: Pick, bound: Bound, compiler: Compiler) -> str:
    """Whether the layer is one beyond which was not looked, where something there might change it."""
    edges = []
    if pick.below and bound.layers.lowest > 0:
        edges.append(bound.layers.lowest)
    if pick.above and bound.layers.highest < bound.run.layers - 1:
        edges.append(bound.layers.highest)
    listed = ", ".join(compiler.value("edge", edge) for edge in edges)
    return f"{pick.layer} IN ({listed})" if edges else "false"


def _with_missing(bound: Bound, relation: Relation, compiler: Compiler) -> Relation:
    """A row for each image, without a layer where the token is never read: later than any layer."""
    images = "".join(f" AND {condition}" for condition in bound.has_readings)
    images += "" if bound["images"] is None else f" AND ({bound['images'].sql(compiler)})"
    columns = ", ".join(f"answer.{name}" for name in relation.columns)
    sql = f"""\
SELECT images.image_id AS image, {columns}
FROM {compiler.table("images")} AS images LEFT JOIN {relation.part()} AS answer ON answer.image = images.image_id
WHERE images.error IS NULL{images}"""
    return replace(relation, sql=sql, missing_is_last=True)


def _one_row(pick: Pick, relation: Relation, compiler: Compiler) -> Relation:
    """The corpus' row: the image that is read first (last, most), how many share its layer, and every layer's count."""
    columns = ["image", *relation.columns, "image_id"]
    sql = f"""\
WITH found AS (
  SELECT images.image, image_id, answer.* EXCLUDE (image)
  FROM {indented(compiler.source(relation))}
)
SELECT {", ".join(columns)},
  count(*) OVER (PARTITION BY layer) AS images, (SELECT histogram(layer) FROM found) AS histogram
FROM found ORDER BY {pick.order}, image, image_id LIMIT 1"""
    return Relation(sql, (), (*columns, "images", "histogram"), "layer")


# --- in words --------------------------------------------------------------------------------------------------


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """Of `images` images with readings: in how many it is read, and the layers' median, extremes and histogram."""
    if bound["by"] == "corpus":
        histogram: dict[int, int] = dict(rows[0]["histogram"]) if rows else {}
        return sum_up(bound, one_layer_each(histogram), images)
    return sum_up(bound, layer_totals([row for row in rows if row["layer"] is not None]), images)


def totals(bound: Bound) -> dict[str, str]:
    return layer_totals_sql("layer IS NOT NULL")


def sum_up(bound: Bound, totals: Totals, images: int) -> Summary:
    return layer_summary(totals, bound.layers.layers, images)


def headline(pick: Pick, bound: Bound, summary: Summary) -> str:
    """One sentence, the typical before the extreme."""
    read = f"{bound.token.label}{qualified(bound)}: read{WHERE[bound['at']]}"
    more = placed(summary) + held_against(summary)
    if summary["matched"] == 0:
        return f"{read} in none of {count(summary['images'], 'image')}{more}"
    of_a_patch = " of a patch" if bound["by"] == "patch" else ""
    return (
        f"{read} in {summary['matched']:,} of {count(summary['images'], 'image')}, "
        f"median {pick.word} layer{of_a_patch} {figure(summary['median'])}, {pick.extreme.format(**summary)}{more}"
    )


def _function(pick: Pick, documentation: str, example: str) -> Function:
    runs = () if pick.run is None else (MIN_RUN,)
    return Function(
        name=f"{pick.word}_layer",
        parameters=(
            TOKEN,
            RANK,
            MIN_PROB,
            LAYERS,
            AT,
            PATCHES,
            MIN_PATCHES,
            *runs,
            BY,
            MISSING,
            IMAGES,
            AGAINST,
            PIECES,
        ),
        positional=1,
        documentation=documentation,
        example=example,
        check=check,
        compile=partial(compile_layer, pick),
        summarise=summarise,
        totals=totals,
        sum_up=sum_up,
        headline=partial(headline, pick),
        subject=asked,
        contrast=contrast_layers,
        notes=unstored,
    )


FIRST_LAYER = _function(
    FIRST,
    "In each image, the first layer where the token is read, and the patches that read it there.",
    "first_layer(token='dog', min_prob=0.5)",
)
LAST_LAYER = _function(
    LAST,
    "In each image, the last layer where the token is read, and the patches that read it there.",
    "last_layer(token='dog', min_prob=0.5)",
)
PEAK_LAYER = _function(
    PEAK,
    "In each image, the layer where the token's probability is highest, and the patches that read it there.",
    "peak_layer(token='dog')",
)
