"""divergence_layer: in each image, the layer from which it is read as not many others are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from vlq.query.functions.counts import image_tokens, majority_note
from vlq.query.functions.divergence import mean_divergences, rise_phrase, unsummed_note
from vlq.query.functions.phrases import PLACE, named, qualified
from vlq.query.functions.shared import AT, IMAGES, LAYERS
from vlq.query.functions.sources import check_site
from vlq.query.language.bind import Bound, Scope
from vlq.query.language.compile import VOCABULARY, Compiler, Relation, indented
from vlq.query.language.parameters import Choice, Optional, Parameter, Share
from vlq.query.language.registry import Function
from vlq.query.mistakes.values import MISSING_BY
from vlq.query.summary import Rows, Summary, as_seen, count, figure, layer_summary, one_layer_each


def check(bound: Bound, scope: Scope) -> None:
    """Raises BadArgument for arguments that do not go together, or a site without readings."""
    check_site(bound, scope)
    if bound["missing"] is not None and bound["by"] != "image":
        raise scope.error(MISSING_BY, bound.argument("missing"))


def compile_divergence_layer(bound: Bound, compiler: Compiler) -> Relation:
    """`read` says of every image and layer whether it reads a default; `ends` where it last does."""
    rises = " AND ".join(["rise > 0", *compiler.layers(bound.layers)])
    sql = f"""\
WITH tokens AS (
  {indented(image_tokens(bound, compiler))}
), shares AS (
  SELECT *, count(*) OVER (PARTITION BY layer, token) AS count, count(*) OVER (PARTITION BY layer) AS total
  FROM tokens
), read AS (
  SELECT image, layer, token, count / total AS share,
    count > 1 AND count / total >= {compiler.value("min_share", bound["min_share"])} AS is_default
  FROM shares
), ends AS (
  SELECT image, coalesce(max(layer) FILTER (is_default), -1) AS last FROM read GROUP BY image
), found AS (
  SELECT image, min(layer) FILTER (layer > last)::INTEGER AS layer,
    coalesce(arg_min(token, layer) FILTER (layer > last), arg_max(token, layer)) AS token,
    coalesce(arg_min(share, layer) FILTER (layer > last), arg_max(share, layer)) AS share
  FROM read JOIN ends USING (image) GROUP BY image
), corpus AS (
  SELECT max(rise) AS corpus_rise, arg_max(layer, (rise, -layer)) AS corpus_layer
  FROM {indented(mean_divergences(bound, compiler))} WHERE {rises}
)"""
    if bound["by"] == "corpus":
        sql += """
SELECT corpus_layer AS layer, corpus_rise AS rise,
  count(layer) AS images, median(layer) AS median, histogram(layer) AS histogram
FROM found CROSS JOIN corpus GROUP BY corpus_layer, corpus_rise"""
        return Relation(sql, (), ("layer", "rise", "images", "median", "histogram"), "layer")
    censored = "false"
    if (edge := bound.layers.lowest) > 0:
        censored = f"coalesce(layer = {compiler.value('edge', edge)}, false)"
    sql += f"""
SELECT image, layer, token, piece, share, {censored} AS censored, corpus_layer, corpus_rise
FROM found CROSS JOIN corpus LEFT JOIN {compiler.table(VOCABULARY)} ON id = token"""
    columns = ("layer", "token", "piece", "share", "censored", "corpus_layer", "corpus_rise")
    return Relation(sql, ("image",), columns, "layer", ("answer.layer",), missing_is_last=bound["missing"] is not None)


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """In how many images it happens and at which layers; where the divergence rises most, by how many nats.

    `never` counts the others, and `still` is the default that most of them end with, of equal ones the lower id.
    """
    corpus = rows[0] if rows else dict.fromkeys(("layer", "rise", "corpus_layer", "corpus_rise"))
    if bound["by"] == "corpus":
        histogram: dict[int, int] = corpus.get("histogram") or {}
        found = layer_summary(one_layer_each(histogram), bound.layers.layers, images)
        return found | {"corpus_layer": corpus["layer"], "corpus_rise": corpus["rise"]}
    histogram = Counter(row["layer"] for row in rows if row["layer"] is not None)
    found = layer_summary(one_layer_each(histogram), bound.layers.layers, images)
    ends = Counter((row["token"], row["piece"]) for row in rows if row["layer"] is None)
    most = min(ends, key=lambda end: (-ends[end], end[0]), default=None)
    return found | {
        "corpus_layer": corpus["corpus_layer"],
        "corpus_rise": corpus["corpus_rise"],
        "never": ends.total(),
        "still": most and {"token": most[0], "piece": most[1]},
    }


def headline(bound: Bound, summary: Summary) -> str:
    """In how many images it happens, from which layer on, and where the corpus' divergence rises most."""
    where, matched = PLACE[bound["at"]], summary["matched"]
    verb = "becomes" if bound["at"] == "last" else "become"
    parts = [
        f"{where[0].upper()}{where[1:]} {verb} image-specific in {f'{matched:,}' if matched else 'none'} of "
        f"{count(summary['images'], 'image')}{qualified(bound)}"
    ]
    if matched:
        parts[0] += f", median layer {figure(summary['median'])}, earliest {summary['min']}"
    if never := summary.get("never"):
        others = "they" if never == summary["images"] else f"the other {never:,}" if matched else f"{never:,}"
        end = "ends" if never == 1 else "end"
        parts.append(f"{others} {end} with a default, most often {named(**summary['still'])}")
    if as_seen("corpus_rise", summary["corpus_rise"]):
        parts.append(f"the corpus' divergence {rise_phrase(summary['corpus_layer'], summary['corpus_rise'])}")
    return "; ".join(parts)


def notes(bound: Bound) -> list[str]:
    """What a default is, and what the answer leaves open."""
    share = bound["min_share"]
    images = "" if bound["images"] is None else f", images={bound['images'].node}"
    found = [
        "Image-specific: from this layer on the image decodes to no default. Defaults are tokens that at least "
        f"{share} of the images, and at least two, decode to: "
        f"defaults('{bound['at']}', share=1{images}).where(share >= {share} and count > 1)"
    ]
    if bound.layers.highest < bound.run.layers - 1:
        found.append(f"Whether it stays so beyond layer {bound.layers.highest} was not looked at.")
    return found + majority_note(bound) + unsummed_note(bound)


DIVERGENCE_LAYER = Function(
    name="divergence_layer",
    parameters=(
        replace(AT, default="last"),
        Parameter("min_share", Share(), "a default is a token that at least this share of the images decodes to", 0.1),
        LAYERS,
        Parameter("by", Choice(("image", "corpus")), "a row for each image, or one row", "image"),
        Parameter(
            "missing",
            Optional(Choice(("never",))),
            "'never' counts images in which it does not happen as after any layer in comparisons",
            None,
        ),
        IMAGES,
    ),
    positional=1,
    documentation="In each image, the layer from which on it decodes to no token that many images decode to.",
    example="divergence_layer(at='last')",
    check=check,
    compile=compile_divergence_layer,
    summarise=summarise,
    headline=headline,
    notes=notes,
)
