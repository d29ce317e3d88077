"""divergence: layer by layer, how much what is read differs from image to image."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import median

from vlq.query.cache.sums import SUMMED, entropies_at
from vlq.query.functions.counts import UNIT, counted_in, majority_note, token_counts
from vlq.query.functions.phrases import PLACE, qualified
from vlq.query.functions.shared import AT, IMAGES, LAYERS
from vlq.query.functions.sources import check_site
from vlq.query.language.bind import Bound
from vlq.query.language.compile import VOCABULARY, Compiler, Relation, indented
from vlq.query.language.registry import Function
from vlq.query.schema import DIVERGENCE as ENTROPIES
from vlq.query.summary import Rows, Summary, as_seen, count


def is_summed(bound: Bound) -> bool:
    """Whether the divergence is known: sums are of all images, and of some positions alone."""
    return bound["images"] is None and bound["at"] in SUMMED


def mean_divergences(bound: Bound, compiler: Compiler) -> str:
    """layer, mean_entropy, divergence and rise, as something to select from; without rows if they are not known.

    `rise` is from the layer that was read below, of which the lowest has none.
    """
    if not is_summed(bound):
        columns = ("NULL::DOUBLE AS mean_entropy", "NULL::DOUBLE AS divergence", "NULL::DOUBLE AS rise")
        return f"(SELECT NULL::INTEGER AS layer, {', '.join(columns)} WHERE false)"
    snapshot, site = bound.scope.snapshot, bound["at"]
    if snapshot.images and not snapshot.loose:
        entropies = compiler.table(ENTROPIES)
    else:  # the index does not cover all that is committed
        entropies = compiler.load("entropies", partial(entropies_at, site=site))
    # A divergence is never negative (Jensen's inequality), which rounding does not know.
    return f"""\
(
  SELECT *, divergence - lag(divergence) OVER (ORDER BY layer) AS rise
  FROM (
    SELECT layer::INTEGER AS layer, mean_entropy, greatest(0, entropy_of_mean - mean_entropy) AS divergence
    FROM {entropies} WHERE site = {compiler.value("site", site)}
  )
)"""


def compile_divergence(bound: Bound, compiler: Compiler) -> Relation:
    """Counts the tokens of each layer; beside them what the index has of the sums."""
    sql = f"""\
WITH counts AS (
  {indented(token_counts(bound, compiler))}
), shares AS (
  SELECT *, count / sum(count) OVER (PARTITION BY layer) AS share FROM counts
), layers AS (
  SELECT layer::INTEGER AS layer, count(*) AS tokens, arg_max(token, (count, -token::BIGINT)) AS token,
    max(share) AS share, fsum(share * ln(1 / share)) AS top1_entropy
  FROM shares GROUP BY layer
)
SELECT layer, tokens, token, piece, share, top1_entropy, mean_entropy, divergence, rise
FROM layers LEFT JOIN {compiler.table(VOCABULARY)} ON id = token
LEFT JOIN {mean_divergences(bound, compiler)} USING (layer)"""
    columns = ("tokens", "token", "piece", "share", "top1_entropy", "mean_entropy", "divergence", "rise")
    return Relation(sql, ("layer",), columns, "divergence")


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """Of the median layer the number of tokens and the share of the most common; where the divergence rises most.

    `layer` is the one of the greatest `rise`, the lowest of equal ones; None if it is not known or nowhere rises.
    """
    rises = [row for row in rows if row["rise"] is not None and row["rise"] > 0]
    steepest = max(rises, key=lambda row: (row["rise"], -row["layer"]), default=None)
    known = [row["divergence"] for row in rows if row["divergence"] is not None]
    return {
        "images": images,
        "matched": images if rows else 0,
        "layers": len(rows),
        "tokens": median(row["tokens"] for row in rows) if rows else None,
        "share": median(row["share"] for row in rows) if rows else None,
        "divergence": median(known) if known else None,
        "layer": steepest and steepest["layer"],
        "rise": steepest and steepest["rise"],
    }


def headline(bound: Bound, summary: Summary) -> str:
    """The median layer, and where the divergence rises most."""
    at = f"Divergence at {PLACE[bound['at']]} of {count(summary['images'], 'image')}"
    at += qualified(bound)
    if not summary["layers"]:
        return f"{at}: nothing is read"
    several = summary["layers"] > 1
    parts = []
    if summary["divergence"] is not None:
        divergence = f"{as_seen('divergence', summary['divergence']):.2f} nats"
        parts.append(f"median {divergence}" if several else divergence)
    if as_seen("rise", summary["rise"]) and several:
        parts[-1] += f", {rise_phrase(summary['layer'], summary['rise'])}"
    tokens = f"{count(summary['tokens'], 'distinct token')}, the most common in {summary['share']:.0%} of the "
    parts.append(f"{'in the median layer ' if several else ''}{tokens}{counted_in(bound)}")
    return f"{at}: {'; '.join(parts)}"


def rise_phrase(layer: int, rise: float) -> str:
    return f"rises most at layer {layer} (by {rise:.2g} nats)"


def notes(bound: Bound) -> list[str]:
    """How images of several positions count, and why the divergence may be missing."""
    found = majority_note(bound)
    if found and is_summed(bound):
        found[0] += " mean_entropy and divergence are over all positions."
    return found + unsummed_note(bound)


def unsummed_note(bound: Bound) -> list[str]:
    """Why the divergence is not known."""
    if bound["at"] not in SUMMED:
        summed = " and ".join(PLACE[site] for site in SUMMED)
        return [f"The divergence is not known at {PLACE[bound['at']]}: probabilities are summed at {summed} only."]
    if bound["images"] is not None:
        return ["The divergence of a part of the images is not known: probabilities are summed over all of them."]
    return []


DIVERGENCE = Function(
    name="divergence",
    parameters=(replace(AT, default="last"), UNIT, LAYERS, IMAGES),
    positional=1,
    documentation="For each layer how much readings differ: top-1 tokens, and the divergence from the corpus' mean.",
    example="divergence(at='last')",
    check=check_site,
    compile=compile_divergence,
    summarise=summarise,
    headline=headline,
    notes=notes,
)
