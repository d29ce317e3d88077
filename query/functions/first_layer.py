"""first_layer: in each image, the first layer where the token is read."""

from __future__ import annotations

from vlq.query.bind import Bound, Scope
from vlq.query.compile import Statement, Where
from vlq.query.errors import BadArgument
from vlq.query.functions.shared import AT, BY, LAYERS, MIN_PATCHES, MIN_PROB, MIN_RUN, PIECES, RANK, TOKEN
from vlq.query.registry import Function
from vlq.query.summary import Rows, Summary, count, figure, layer_summary


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
    if bound["min_run"] > len(bound.layers.layers):
        raise scope.error(
            BadArgument,
            f"min_run: there are {count(len(bound.layers.layers), 'layer')} to look at. Got {bound['min_run']}.",
            bound.argument("min_run"),
        )


def compile_first_layer(bound: Bound) -> Statement:
    """`layers` are the layers that count, with what is read there; `first` is each image's (or patch's) first one."""
    by_patch = bound["by"] == "patch"
    unit = "image, position" if by_patch else "image"
    table, layers, where = _patches(bound) if by_patch else _layers(bound)
    parameters = where.parameters | {"lowest": bound.layers.lowest}
    if bound["min_run"] > 1:
        # Layers ascend without repeats: it is a run if the layer so many places on is so many higher.
        layers += f"\n  QUALIFY lead(layer, $more) OVER (PARTITION BY {unit} ORDER BY layer) = layer + $more"
        parameters["more"] = bound["min_run"] - 1
    read = "arg_min(logprob, layer) AS logprob" + ("" if by_patch else ", arg_min(positions, layer) AS positions")
    sql = f"""\
WITH layers AS (
  {layers}
), first AS (
  SELECT {unit}, min(layer) AS layer, {read}
  FROM layers GROUP BY {unit}
), named AS (
  SELECT first.* EXCLUDE (image), images.image, image_id, layer = $lowest AND $lowest > 0 AS censored
  FROM first JOIN read_parquet($images) AS images ON image_id = first.image
)
SELECT {_columns(bound)}
FROM named ORDER BY layer, image, image_id{", patch" if by_patch else ""}"""
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


def _layers(bound: Bound) -> tuple[str, str, Where]:
    """The layers in which enough positions read the token: the smallest table that tells, the SELECT, its values."""
    if len(bound.token.ids) == 1 and bound["rank"] == 1 and bound["min_prob"] is None:
        table, where = f"{bound['at']}_top1", _where(bound)
        if bound["min_patches"] > 1:
            where.add("n >= $min_patches", min_patches=bound["min_patches"])
        return table, f"SELECT image, layer, positions, logprob FROM read_parquet(${table}) WHERE {where}", where
    table, readings, where = _patches(bound)
    enough = ""
    if bound["min_patches"] > 1:
        enough = " HAVING count(*) >= $min_patches"
        where.parameters["min_patches"] = bound["min_patches"]
    layers = f"""\
SELECT image, layer, list(position ORDER BY position) AS positions, max(logprob) AS logprob
  FROM ({readings}
  ) GROUP BY image, layer{enough}"""
    return table, layers, where


def _patches(bound: Bound) -> tuple[str, str, Where]:
    """The positions that read the token at each layer: the table, the SELECT, its values."""
    table, where = f"{bound['at']}_topk", _where(bound)
    rank, min_prob = bound["rank"] if bound["rank"] < bound.run.k else None, bound["min_prob"]
    if len(bound.token.ids) == 1:
        if rank is not None:
            where.add("rank <= $rank", rank=rank)
        if min_prob is not None:
            where.add("exp(logprob) >= $min_prob", min_prob=min_prob)
        return table, f"SELECT image, layer, position, logprob FROM read_parquet(${table}) WHERE {where}", where
    # Of a set the best rank counts, and the probabilities add up.
    having = Where()
    if rank is not None:
        having.add("min(rank) <= $rank", rank=rank)
    if min_prob is not None:
        having.add("fsum(exp(logprob)) >= $min_prob", min_prob=min_prob)
    sets = f"""\
SELECT image, layer, position, least(ln(fsum(exp(logprob))), 0) AS logprob
  FROM read_parquet(${table}) WHERE {where}
  GROUP BY image, layer, position{f" HAVING {having}" if having.conditions else ""}"""
    where.parameters |= having.parameters
    return table, sets, where


def _where(bound: Bound) -> Where:
    where = Where()
    where.add_tokens(bound.token.ids)
    where.add_layers(bound.layers)
    return where


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


def headline(bound: Bound, summary: Summary) -> str:
    """One sentence, the typical before the extreme."""
    where = {"patch": "", "last": " at the last prompt token", "prompt": " at the prompt's tokens"}[bound["at"]]
    read = f"{bound.token.label}{_qualified(bound)}: read{where}"
    if summary["matched"] == 0:
        return f"{read} in none of {count(summary['images'], 'image')}"
    what = "median first layer of a patch" if bound["by"] == "patch" else "median first layer"
    return (
        f"{read} in {summary['matched']:,} of {count(summary['images'], 'image')}, "
        f"{what} {figure(summary['median'])}, earliest {summary['min']}"
    )


def _qualified(bound: Bound) -> str:
    """What narrows a reading, in parentheses: ' (rank 1 to 5, probability at least 0.5)'."""
    parts = []
    if bound["rank"] > 1:
        parts.append(f"rank 1 to {bound['rank']}")
    if bound["min_prob"] is not None:
        parts.append(f"probability at least {bound['min_prob']:g}")
    if not bound.layers.is_all:
        layers = bound.layers.layers
        if len(layers) == 1:
            parts.append(f"layer {layers[0]}")
        elif bound.layers.is_window:
            parts.append(f"layers {layers[0]} to {layers[-1]}")
        else:
            parts.append(f"layers {', '.join(map(str, layers))}")
    if bound["min_patches"] > 1:
        parts.append(f"at least {bound['min_patches']} {'patches' if bound['at'] == 'patch' else 'positions'} a layer")
    if bound["min_run"] > 1:
        parts.append(f"{bound['min_run']} layers in a row")
    return f" ({', '.join(parts)})" if parts else ""


def notes(bound: Bound) -> list[str]:
    """The bound on what the stored tokens leave out of a set's probability."""
    ids, k = bound.token.ids, bound.run.k
    if len(ids) == 1 or bound["min_prob"] is None:
        return []
    # The k stored tokens each have at least the k-th's probability, so that is at most 1/k.
    most = min(1.0, (min(len(ids), bound.run.vocabulary_size - k) - 1) / k)
    return [
        f"Probabilities of the {len(ids)} tokens are added up over the {k} stored of each reading. Those not stored "
        f"have at most the {k}th's probability each, together at most {most:.3g}: some readings just below "
        f"{bound['min_prob']:g} may belong here."
    ]


FIRST_LAYER = Function(
    name="first_layer",
    parameters=(TOKEN, RANK, MIN_PROB, LAYERS, AT, MIN_PATCHES, MIN_RUN, BY, PIECES),
    positional=1,
    documentation="In each image, the first layer where the token is read, and the patches that read it there.",
    example="first_layer(token='dog', min_prob=0.5)",
    check=check,
    compile=compile_first_layer,
    summarise=summarise,
    headline=headline,
    notes=notes,
)
