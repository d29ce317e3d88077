"""rank and prob: what is known of a token at every position, and the bounds of what is not."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import median

from vlq.query.functions.kept import known_readings, source_of
from vlq.query.functions.phrases import WHERE, qualified
from vlq.query.functions.shared import AGAINST, AT, IMAGES, LAYERS, PATCHES, PIECES, PLACE, TOKEN
from vlq.query.functions.sources import asked, check_site, token_positions
from vlq.query.language.against import contrast_layers, held_against
from vlq.query.language.bind import Bound, Others
from vlq.query.language.bounds import HIGH, LOW
from vlq.query.language.compile import Compiler, Relation, Rest, indented
from vlq.query.language.parameters import Choice, Optional, Parameter
from vlq.query.language.patches import INSIDE, Numbered, not_all
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


def compile_tracked(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each position: of tracked tokens all is known."""
    name = bound.function.name
    keys, shown = _keys(bound)
    conditions = [compiler.tokens(bound.token.ids), *asked(bound, compiler)]
    table = known_readings(bound, compiler, ranks=name == "rank")
    if bound.patches is not None:
        table += f" {bound.patches.mask(compiler)}"
        conditions.append(INSIDE)
    rank, prob, group = "rank", "exp(logprob)", ""
    if len(bound.token.ids) > 1:
        rank, prob, group = "min(rank)", "least(fsum(exp(logprob)), 1)", "\nGROUP BY image, layer, position"
    values = f"{rank}::INTEGER AS rank" + (f", {prob} AS prob" if name == "prob" else "")
    sql = f"""\
SELECT *, {name} AS {LOW}, {name} AS {HIGH}
FROM (
  SELECT {shown}, {values}
  FROM {table}
  WHERE {indented(" AND ".join(conditions))}{indented(group)}
)"""
    columns = ("rank", LOW) if name == "rank" else ("prob", HIGH, "rank")
    return Relation(sql, keys, columns, name, ("answer.layer",), bounded=True)


def compile_rank(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each position that has one of the tokens among its k best. Elsewhere their ranks are above k."""
    if source_of(bound):
        return compile_tracked(bound, compiler)
    readings = token_positions(bound.given(rank=bound.run.k, min_prob=None), compiler)
    keys, shown = _keys(bound)
    sql = f"SELECT {shown}, rank::INTEGER AS rank, rank AS {LOW}, rank AS {HIGH}\nFROM (\n  {indented(readings)}\n)"
    least = compiler.value("beyond", bound.run.k + 1)
    most = compiler.value("last_rank", bound.run.vocabulary_size - len(bound.token.ids) + 1)
    rest = _rest(bound, f"{least} AS {LOW}, {most} AS {HIGH}", compiler)
    return Relation(sql, keys, ("rank", LOW), "rank", ("answer.layer",), bounded=True, rest=rest)


def compile_prob(bound: Bound, compiler: Compiler) -> Relation:
    """A row for each position that has one of the tokens among its k best, with the sum of those that it has.

    Of the tokens that it has not, each is at most as probable as any that it has and as the last of its k best, and all
    together as what these leave.
    """
    if source_of(bound):
        return compile_tracked(bound, compiler)
    keys, shown = _keys(bound)
    site, tokens = bound["at"], len(bound.token.ids)
    conditions = [compiler.tokens(bound.token.ids), *asked(bound, compiler)]
    table = compiler.table(f"{site}_topk", bound.token.ids)
    if bound.patches is not None:
        table += f" {bound.patches.mask(compiler)}"
        conditions.append(INSIDE)
    stored = f"FROM {table}\nWHERE {' AND '.join(conditions)}"
    each = compiler.value("number_of_tokens", tokens)
    if tokens == 1:
        sql = f"SELECT {shown}, exp(logprob) AS prob, prob AS {LOW}, prob AS {HIGH}\n{stored}"
    else:
        sums = f"""\
SELECT {shown}, fsum(exp(logprob)) AS sum, count(*) AS stored, min(logprob) AS least
{stored}
GROUP BY ALL"""
        sql = f"""\
SELECT {", ".join(keys)}, least(sum, 1) AS prob, prob AS {LOW},
  least(sum + least(({each} - stored) * exp(least(kth, least)), rest), 1) AS {HIGH}
FROM (
  {indented(sums)}
) JOIN {compiler.table(f"{site}_rest")} USING (image, layer)"""
    most = compiler.value("most", _most(bound))
    rest = _rest(bound, f"0.0::DOUBLE AS {LOW}, least({each} * exp(kth), rest, {most}) AS {HIGH}", compiler)
    return Relation(sql, keys, ("prob", HIGH), "prob", ("answer.layer",), bounded=True, rest=rest)


def _most(bound: Bound) -> float:
    """What m tokens can have where none is stored: with k that are as probable or more they add up to 1 at most."""
    tokens = len(bound.token.ids)
    return tokens / (tokens + bound.run.k)


def _keys(bound: Bound) -> tuple[tuple[str, ...], str]:
    """The keys, and their SQL from the columns of the index."""
    place = PLACE[bound["at"]]
    shown = ["image", "layer::INTEGER AS layer", *(f"position::INTEGER AS {name}" for name in place)]
    return ("image", "layer", *place), ", ".join(shown)


def _rest(bound: Bound, bounds: str, compiler: Compiler) -> Rest:
    conditions = asked(bound, compiler)
    where = f"\nWHERE {' AND '.join(conditions)}" if conditions else ""
    table = compiler.table(f"{bound['at']}_rest")
    sql = f"SELECT image, layer::INTEGER AS layer, {bounds}\nFROM {table}{where}"
    patches = bound.patches or not_all(bound.run, bound["at"])
    mask = None if patches is None else patches.mask(compiler)
    return Rest(sql, bound.run.positions[bound["at"]], bound["missing"] is not None, mask)


def summarise(bound: Bound, rows: Rows, images: int) -> Summary:
    """How many readings have the token among their k best, at which layers, and what it is there.

    `readings` is of how many, None if images have patches of their own, or different numbers of positions. `source` is
    what tells of the others: bounds, or of tracked tokens the values themselves.
    """
    stored = _stored(bound, rows)
    values = [row[bound.function.name] for row in stored]
    found = {
        "median": float(median(values)) if values else None,
        "best": (min if bound.function.name == "rank" else max)(values, default=None),
    }
    return sum_up(bound, layer_totals(stored) | found, images)


def totals(bound: Bound) -> dict[str, str]:
    name = bound.function.name
    best = "min" if name == "rank" else "max"
    if not source_of(bound):
        return layer_totals_sql(f"{name} IS NOT NULL") | {"median": f"median({name})", "best": f"{best}({name})"}
    among = f"rank <= {bound.run.k}"
    return layer_totals_sql(among) | {
        "median": f"median({name}) FILTER ({among})",
        "best": f"{best}({name}) FILTER ({among})",
    }


def sum_up(bound: Bound, totals: Totals, images: int) -> Summary:
    name = bound.function.name
    positions: int | None = None if bound["at"] in bound.run.uneven else bound.run.positions[bound["at"]]
    if bound.patches is not None and positions is not None:
        positions = len(bound.patches.numbers) if isinstance(bound.patches, Numbered) else None
    return layer_summary(totals, bound.layers.layers, images) | {
        "stored": totals["stored"],
        "readings": None if positions is None else images * len(bound.layers.layers) * positions,
        f"median_{name}": totals["median"],
        f"best_{name}": totals["best"],
        "source": source_of(bound) or f"the {bound.run.k} best",
    }


def _stored(bound: Bound, rows: Rows) -> Rows:
    """The rows of positions where something is among the k best."""
    if source_of(bound):
        return [row for row in rows if row["rank"] is not None and row["rank"] <= bound.run.k]
    return [row for row in rows if row[bound.function.name] is not None]


def contrast(bound: Bound, summary: Summary, rows: Rows, others: Others) -> Summary:
    """What `against=` adds: of how many images on both sides the token is among the k best, and at which layers."""
    return contrast_layers(bound, summary, _stored(bound, rows), replace(others, rows=_stored(bound, others.rows)))


def headline(bound: Bound, summary: Summary) -> str:
    source = source_of(bound)
    among = f"{f'{source}; ' if source else ''}among the {bound.run.k} best{WHERE[bound['at']]}"
    read = f"{bound.token.label}{qualified(bound)}: {among}"
    there = partial(_there, bound)
    images, more = count(summary["images"], "image"), placed(summary) + held_against(summary, there)
    every = None if summary["readings"] is None else count(summary["readings"], "reading")
    if not summary["stored"]:
        return f"{read} in none of {images if every is None else f'{every} of {images}'}{more}"
    stored = count(summary["stored"], "reading") if every is None else f"{summary['stored']:,} of {every}"
    return f"{read} in {stored}, in {summary['matched']:,} of {images}; {there(summary)}{more}"


def _there(bound: Bound, summary: Summary) -> str:
    if bound.function.name == "rank":
        return f"median rank there {figure(summary['median_rank'])}, best {summary['best_rank']}"
    return f"median probability there {summary['median_prob']:.3g}, highest {summary['best_prob']:.3g}"


EXACT = {
    "tracked": "{} is tracked: its {} is exact at every reading, and each has a row.",
    "residuals kept": "The residual stream is kept: the {1} of {0} is exact at every reading, and each has a row.",
    "all kept": "All logits are kept: the {1} of {0} is exact at every reading, and each has a row.",
}
"""What is to be known of an answer about tokens of which all is known."""


def notes_of_rank(bound: Bound) -> list[str]:
    k = bound.run.k
    if k == bound.run.vocabulary_size:
        return []
    if source := source_of(bound):
        return [EXACT[source].format(bound.token.label, "rank")]
    return [f"Where {bound.token.label} is not among a reading's {k} best, its rank is above {k}."]


def notes_of_prob(bound: Bound) -> list[str]:
    k, tokens = bound.run.k, len(bound.token.ids)
    if k == bound.run.vocabulary_size:
        return []
    if source := source_of(bound):
        return [EXACT[source].format(bound.token.label, "probability")]
    most = f"Where {bound.token.label} is not among a reading's {k} best, its probability is at most {_most(bound):.3g}"
    if bound["missing"] is None:
        most += ", often far less: missing='bound' lists the bounds"
    if tokens == 1:
        return [f"{most}."]
    return [f"{most}. Of its {tokens} tokens those that are among them add up; at_most adds the most of the others."]


MISSING = Parameter(
    "missing",
    Optional(Choice(("bound",))),
    "'bound' gives the other positions a row too, with the bounds of what the token can be there",
    None,
)

RANK = Function(
    name="rank",
    parameters=(TOKEN, LAYERS, AT, PATCHES, MISSING, IMAGES, AGAINST, PIECES),
    positional=1,
    documentation="At every position the token's rank: exact if tracked, kept or of the k best, elsewhere above k.",
    example="rank('dog') <= 3",
    check=check_site,
    compile=compile_rank,
    summarise=summarise,
    totals=totals,
    sum_up=sum_up,
    headline=headline,
    contrast=contrast,
    notes=notes_of_rank,
)
PROB = Function(
    name="prob",
    parameters=(TOKEN, LAYERS, AT, PATCHES, MISSING, IMAGES, AGAINST, PIECES),
    positional=1,
    documentation="At every position the token's probability: exact if tracked, kept or of the k best, else bounded.",
    example="prob('dog') > prob('cat')",
    check=check_site,
    compile=compile_prob,
    summarise=summarise,
    totals=totals,
    sum_up=sum_up,
    headline=headline,
    contrast=contrast,
    notes=notes_of_prob,
)
