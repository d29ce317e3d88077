"""first_layer, last_layer, peak_layer: of each image (or patch) one of the layers where the token is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from vlq.query.bind import Bound, Scope
from vlq.query.compile import Statement
from vlq.query.errors import BadArgument
from vlq.query.functions.phrases import WHERE, qualified, unstored
from vlq.query.functions.shared import AT, BY, LAYERS, MIN_PATCHES, MIN_PROB, MIN_RUN, PIECES, RANK, TOKEN
from vlq.query.functions.sources import token_layers, token_positions
from vlq.query.registry import Function
from vlq.query.summary import Rows, Summary, count, figure, layer_summary


@dataclass(frozen=True)
class Pick:
    """Which of the layers it is."""

    word: str  # the median ... layer
    layer: str  # SQL: the layer
    at: str  # SQL: a column's value at that layer
    run: str | None  # SQL: whether a layer begins or ends a run of $more + 1
    censored: str  # SQL: whether layers that were not looked at might change it
    order: str  # SQL: which image comes first, when one is to stand for the corpus
    extreme: str  # how the sentence ends


FIRST = Pick(
    "first",
    "min(layer)",
    "arg_min({}, layer)",
    "lead(layer, $more) OVER (PARTITION BY {} ORDER BY layer) = layer + $more",
    "layer = $lowest AND $lowest > 0",
    "layer",
    "earliest {min}",
)
LAST = Pick(
    "last",
    "max(layer)",
    "arg_max({}, layer)",
    "lag(layer, $more) OVER (PARTITION BY {} ORDER BY layer) = layer::INTEGER - $more",
    "layer = $highest AND $highest < $deepest",
    "layer DESC",
    "latest {max}",
)
PEAK = Pick(
    "peak",
    "arg_max(layer, (logprob, -layer::INTEGER))",  # of equal ones the lowest
    "arg_max({}, (logprob, -layer::INTEGER))",
    None,
    "(layer = $lowest AND $lowest > 0) OR (layer = $highest AND $highest < $deepest)",
    "logprob DESC",
    "from {min} to {max}",
)


def check(bound: Bound, scope: Scope) -> None:
    """Raises BadArgument for arguments that do not go together or that the cache has no readings for."""
    at = bound["at"]
    if at not in bound.run.positions:
        raise scope.error(
            BadArgument,
            f"at: this cache has readings at {', '.join(bound.run.positions)} only. Got '{at}'.",
            bound.argument("at"),
            "What is read is chosen when the images are cached: vlq run --at patch,prompt",
        )
    if bound["by"] == "patch" and at != "patch":
        raise scope.error(BadArgument, f"by='patch' goes with at='patch', not with at='{at}'.", bound.argument("by"))
    positions = 1 if bound["by"] == "patch" else bound.run.positions[at]
    if bound["min_patches"] > positions:
        where = "by='patch' a row" if bound["by"] == "patch" else f"at='{at}' a layer"
        raise scope.error(
            BadArgument,
            f"min_patches: with {where} has {count(positions, 'position')}. Got {bound['min_patches']}.",
            bound.argument("min_patches"),
        )
    if bound.values.get("min_run", 1) > len(bound.layers.layers):
        raise scope.error(
            BadArgument,
            f"min_run: there are {count(len(bound.layers.layers), 'layer')} to look at. Got {bound['min_run']}.",
            bound.argument("min_run"),
        )


def compile_layer(pick: Pick, bound: Bound) -> Statement:
    """`layers` are the layers that count, with what is read there; `picked` is one of them for each image or patch."""
    by_patch = bound["by"] == "patch"
    unit = "image, position" if by_patch else "image"
    table, layers, where = token_positions(bound) if by_patch else token_layers(bound)
    edges = {"lowest": bound.layers.lowest, "highest": bound.layers.highest, "deepest": bound.run.layers - 1}
    parameters = where.parameters | {name: value for name, value in edges.items() if f"${name}" in pick.censored}
    if bound.values.get("min_run", 1) > 1:
        # Layers ascend without repeats: it is a run if the layer so many places on is so many higher.
        assert pick.run is not None
        layers += f"\n  QUALIFY {pick.run.format(unit)}"
        parameters["more"] = bound["min_run"] - 1
    values = ["logprob"] if by_patch else ["logprob", "positions"]
    read = ", ".join(f"{pick.at.format(name)} AS {name}" for name in values)
    order = f"{pick.order if bound['by'] == 'corpus' else 'layer'}, image, image_id{', patch' if by_patch else ''}"
    sql = f"""\
WITH layers AS (
  {layers}
), picked AS (
  SELECT {unit}, {pick.layer} AS layer, {read}
  FROM layers GROUP BY {unit}
), named AS (
  SELECT picked.* EXCLUDE (image), images.image, image_id, {pick.censored} AS censored
  FROM picked JOIN read_parquet($images) AS images ON image_id = picked.image
)
SELECT {_columns(bound)}
FROM named ORDER BY {order}"""
    if bound["by"] == "corpus":
        sql += " LIMIT 1"
    return Statement(sql, parameters, (table, "images"))


def _columns(bound: Bound) -> str:
    """The columns of the answer. `patches` are the image's patches: a text position is none of them."""
    if bound["by"] == "patch":
        return "image, position AS patch, layer, [position] AS patches, logprob, censored, image_id"
    patches = {"patch": "positions AS patches", "last": "[] AS patches", "prompt": "[] AS patches, positions"}
    columns = f"image, layer, {patches[bound['at']]}, logprob, censored, image_id"
    if bound["by"] == "image":
        return columns
    return (
        f"{columns},\n  count(*) OVER (PARTITION BY layer) AS images, (SELECT histogram(layer) FROM named) AS histogram"
    )


# --- in words --------------------------------------------------------------------------------------------------


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """Of `images` images with readings: in how many it is read, and the layers' median, extremes and histogram."""
    if bound["by"] == "corpus":
        histogram: dict[int, int] = dict(rows[0]["histogram"]) if rows else {}
        return layer_summary(histogram, bound.layers.layers, images, sum(histogram.values()))
    histogram = {}
    for row in rows:
        histogram[row["layer"]] = histogram.get(row["layer"], 0) + 1
    matched = len({row["image_id"] for row in rows}) if bound["by"] == "patch" else len(rows)
    return layer_summary(histogram, bound.layers.layers, images, matched)


def headline(pick: Pick, bound: Bound, summary: Summary) -> str:
    """One sentence, the typical before the extreme."""
    read = f"{bound.token.label}{qualified(bound)}: read{WHERE[bound['at']]}"
    if summary["matched"] == 0:
        return f"{read} in none of {count(summary['images'], 'image')}"
    of_a_patch = " of a patch" if bound["by"] == "patch" else ""
    return (
        f"{read} in {summary['matched']:,} of {count(summary['images'], 'image')}, "
        f"median {pick.word} layer{of_a_patch} {figure(summary['median'])}, {pick.extreme.format(**summary)}"
    )


def _function(pick: Pick, documentation: str, example: str) -> Function:
    runs = () if pick.run is None else (MIN_RUN,)
    return Function(
        name=f"{pick.word}_layer",
        parameters=(TOKEN, RANK, MIN_PROB, LAYERS, AT, MIN_PATCHES, *runs, BY, PIECES),
        positional=1,
        documentation=documentation,
        example=example,
        check=check,
        compile=partial(compile_layer, pick),
        summarise=summarise,
        headline=partial(headline, pick),
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
