"""defaults: the few tokens that nearly every image decodes to, layer by layer."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from vlq.query.functions.counts import UNIT, counted_in, majority_note, token_counts
from vlq.query.functions.phrases import PLACE, named, qualified
from vlq.query.functions.shared import AT, IMAGES, LAYERS, PATCHES
from vlq.query.functions.sources import check_site
from vlq.query.language.bind import Bound
from vlq.query.language.compile import VOCABULARY, Compiler, Relation, indented
from vlq.query.language.parameters import Parameter, Share
from vlq.query.language.registry import Function
from vlq.query.summary import Rows, Summary, count, placed


def compile_defaults(bound: Bound, compiler: Compiler) -> Relation:
    """Counts the tokens of each layer, and keeps the most common ones until they cover the share."""
    # A count is held against the total by division: 9 of 10 is exactly the share 0.9, and 10 * 0.9 need not be 9.
    # Counts that are equal are looked at together first: of many tokens most are read as seldom as many others, and lie
    # behind the share.
    share = compiler.value("share", bound["share"])
    sql = f"""\
WITH counts AS MATERIALIZED (
  {indented(token_counts(bound, compiler))}
), equal AS (
  SELECT layer, count, sum(count) AS sum FROM counts GROUP BY layer, count
), above AS (
  SELECT layer, count, sum(sum) OVER (PARTITION BY layer) AS total,
    sum(sum) OVER (PARTITION BY layer ORDER BY count DESC ROWS UNBOUNDED PRECEDING) - sum AS above
  FROM equal
), ranked AS (
  SELECT *, above + count * row_number() OVER (PARTITION BY layer, count ORDER BY token) AS so_far
  FROM counts JOIN above USING (layer, count) WHERE above / total < {share}
)
SELECT layer::INTEGER AS layer, token, piece, text, count, count / total AS share, so_far / total AS cumulative
FROM ranked LEFT JOIN {compiler.table(VOCABULARY)} ON id = token
WHERE (so_far - count) / total < {share}"""
    columns = ("piece", "text", "count", "share", "cumulative")
    return Relation(sql, ("layer", "token"), columns, "share", ("answer.layer", "answer.count DESC"))


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """The token that leads at most layers (then by its counts there, then the lower id), and how many each layer has.

    `last` is the last layer at which it leads, `share` the median of its shares where it does, `layers` how many layers
    there are, `tokens` the median number of tokens that a layer takes.
    """
    leaders: dict[int, Rows] = {}
    histogram = dict.fromkeys(bound.layers.layers, 0)
    for row in sorted(rows, key=lambda row: (row["layer"], -row["count"], row["token"])):
        if not histogram[row["layer"]]:
            leaders.setdefault(row["token"], []).append(row)
        histogram[row["layer"]] += 1
    summary: Summary = {"images": images, "matched": len({row["token"] for row in rows}), "histogram": histogram}
    if not rows:
        return summary | {"token": None}
    led = min(leaders.values(), key=lambda led: (-len(led), -sum(row["count"] for row in led), led[0]["token"]))
    return summary | {
        "token": led[0]["token"],
        "piece": led[0]["piece"],
        "leads": len(led),
        "last": led[-1]["layer"],
        "share": median(row["share"] for row in led),
        "layers": len(histogram),
        "tokens": median(n for n in histogram.values() if n),
    }


def headline(bound: Bound, summary: Summary) -> str:
    """The most common default, with its usual share and up to which layer it leads."""
    of_images = f" of {count(summary['images'], 'image')}"
    read = f"Defaults at {PLACE[bound['at']]}{of_images}{qualified(bound)}"
    if summary["token"] is None:
        return f"{read}: none{placed(summary)}"
    leader = named(summary["token"], summary["piece"])
    cover = "covers" if summary["tokens"] == 1 else "cover"
    return (
        f"{read}: {leader} leads at {summary['leads']} of {count(summary['layers'], 'layer')}, up to layer "
        f"{summary['last']}, with a median {summary['share']:.0%} of the {counted_in(bound)}; in the median layer "
        f"{count(summary['tokens'], 'token')} {cover} {bound['share']:.0%}{placed(summary)}"
    )


DEFAULTS = Function(
    name="defaults",
    parameters=(
        replace(AT, default="last"),
        Parameter("share", Share(), "how much of the images, or positions, the tokens of a layer have to cover", 0.9),
        UNIT,
        LAYERS,
        PATCHES,
        IMAGES,
    ),
    positional=1,
    documentation="For each layer the fewest tokens that cover a share of what images decode to, with their counts.",
    example="defaults(at='last', share=0.9)",
    check=check_site,
    compile=compile_defaults,
    summarise=summarise,
    headline=headline,
    notes=majority_note,
)
